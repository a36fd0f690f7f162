"""A pytest suite that `benchmarks.deaths` runs, half of which fails; of no use by itself."""
