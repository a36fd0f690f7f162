"""A pytest suite that `benchmarks.suites` runs; of no use by itself."""
