"""What is seen of the gateway: metrics, spans, logs."""
