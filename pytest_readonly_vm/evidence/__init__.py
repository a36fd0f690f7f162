"""What is kept of a test that failed."""
