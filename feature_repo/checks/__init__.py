"""What must hold of features: gates before a load, drift, the skew between training and serving."""
