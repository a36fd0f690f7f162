"""Places where frozen guests travel: a folder, an OCI registry, whatever fsspec knows."""
