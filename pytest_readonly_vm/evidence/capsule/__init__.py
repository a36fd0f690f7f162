"""Failure capsules: a machine at one moment, saved to one file, from which it goes on elsewhere."""
