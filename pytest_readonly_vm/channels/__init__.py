"""The ways to reach a guest, one a file. Knows nothing of how a machine is put together, nor of pytest."""
