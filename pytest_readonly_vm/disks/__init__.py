"""Disks of a machine while it runs: filters between a guest and its image, faults, what it has written."""
