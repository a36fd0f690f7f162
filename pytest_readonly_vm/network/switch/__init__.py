"""The program that is a switch, a process of its own. Nothing but Python's own, as it starts without site-packages."""
