"""One QEMU process: its arguments, its start, its end."""
