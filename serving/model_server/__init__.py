"""The embedded model server: TensorFlow Serving's services, flags and behaviour, for one machine without a container.

A request's way: `services` (wire) → `lifecycle` (which version) → `signatures` (is the request right) → `batching`
(with whom it shares a run) → `tensorflow_servable` (TensorFlow) → `services`. `server` puts them together.
"""
