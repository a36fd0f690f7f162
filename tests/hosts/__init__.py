"""Runs over several hosts: real SSH servers on loopback, each with a home, caches and folders of its own."""
