"""The base image: what it is made of, and the proof that nobody writes to it."""
