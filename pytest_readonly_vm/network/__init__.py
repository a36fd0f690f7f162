"""Private networks of machines: the switch between them, its faults, what it has seen, addresses."""
