"""The inside of a guest: its boot, commands, files, waits."""
