"""MEASURE: locust scenarios, baselines, SLOs. Shares no code with what it measures, but the wire."""
