"""The ways to start a machine: each a file beside this, with what they share."""
