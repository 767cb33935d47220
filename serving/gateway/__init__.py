"""The gRPC gateway: features and model scores into activation ranking. Never imports TensorFlow."""
