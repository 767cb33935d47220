"""JUDGE: did it work. Experiments, off-policy evaluation, reports."""
