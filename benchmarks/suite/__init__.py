"""A pytest suite that `benchmarks.overhead` runs; of no use by itself."""
