"""The model behind TensorFlow Serving: inputs, calls, which version answers whom. No TensorFlow."""
