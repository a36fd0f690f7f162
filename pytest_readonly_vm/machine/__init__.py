"""What a test holds: a machine, from its start to its end. Knows nothing of pytest."""
