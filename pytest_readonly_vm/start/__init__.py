"""How a machine comes to be: it boots, or goes on from a frozen guest."""
