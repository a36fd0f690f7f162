"""Floor 1: what this computer offers. Knows nothing of guests' insides, machines or pytest."""
