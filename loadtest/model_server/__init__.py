"""The embedded model server beside a plain one: `python -m loadtest.model_server`."""
