"""Floor 3: a guest's life, from its configuration to its end. Knows nothing of pytest."""
