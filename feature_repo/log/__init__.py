"""The event log: what came in, by import, by RecordEvents or by a broker, and where it lies."""
