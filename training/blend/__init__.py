"""The classic recommenders in closed form, and the sum of them and the network."""
