"""What this computer offers. Knows nothing of guests' insides, machines or pytest."""
