"""The embedded model server: TensorFlow Serving's services, flags and behaviour, for one machine without a container.

A request's way: `services` or `rest` (wire) → `api` (method) → `catalog` (which version) → `signatures` or `inference`
(is the request right) → `batching` or `session_batching` (with whom it shares a run) → `tensorflow_servable`.
A version's way: `config` (which models) → `model` (which versions) → `lifecycle` → `warmup`.
`flags` and `startup` say what was asked for; `server` puts the parts together.
"""
