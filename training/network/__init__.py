"""What the recommender is made of: layers, encoders, losses. `keras.ops` only."""
