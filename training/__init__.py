"""LEARN: examples, models, evaluation, export of a SavedModel. Never imported by serving."""
