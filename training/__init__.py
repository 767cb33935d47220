"""LEARN: examples, models, evaluation, export of a SavedModel. Never imported by serving."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # before anything imports Keras
