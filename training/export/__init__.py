"""From the trained model to a SavedModel and its contract. Imports TensorFlow."""
