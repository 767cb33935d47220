"""How parameters are found: runs, epochs, phases, the weights of the blend, the search for settings."""
