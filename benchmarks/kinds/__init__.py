"""A pytest suite of several kinds of machines that `benchmarks.simulate` runs; of no use by itself."""
