"""Honest splits, and what is learnt from before the cut."""
