"""Recorded events: durable first, then into the online store."""
