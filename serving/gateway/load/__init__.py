"""How much is taken on at a time, and what waits together."""
