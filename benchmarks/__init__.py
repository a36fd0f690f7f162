"""Measurements of pytest-readonly-vm: commands that print tables, never part of the tests.

``python -m benchmarks`` runs all of them, ``python -m benchmarks overhead --runs 50`` one.
"""
