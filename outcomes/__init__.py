"""JUDGE: did it work. Experiments, off-policy evaluation, reports, and a world whose truth is known."""
