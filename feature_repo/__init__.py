"""WHAT WE KNOW: Feast definitions, the feature contract, raw events to feature rows, materialization."""
