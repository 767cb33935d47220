"""ACT: the gateway (ranking, decisions, feedback) and the embedded model server."""
