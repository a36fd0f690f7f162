"""Private networks: the real process of the switch, with sockets in the place of cards, and with guests."""
