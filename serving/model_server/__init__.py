"""The embedded stand-in for TensorFlow Serving: same wire, same flags, same errors."""
