"""Images that stay on the network, read there as they are wanted."""
