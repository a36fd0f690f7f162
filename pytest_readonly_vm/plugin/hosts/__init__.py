"""Runs whose workers are on other hosts."""
