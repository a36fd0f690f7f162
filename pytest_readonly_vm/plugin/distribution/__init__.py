"""Which tests are run where: kinds of machines, shards, groups, and how long all takes."""
