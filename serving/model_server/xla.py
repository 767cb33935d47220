"""Which signatures need XLA. Python's TensorFlow compiles them; the real server answers INTERNAL, and so do we.

Without this check a model exported with `jit_compile=True` would pass here and fail in production.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

_MUST_COMPILE: Final = "_XlaMustCompile"


def needs_xla(graph_def: Any, tensor_names: Iterable[str]) -> bool:
    """True when computing these tensors of the GraphDef reaches a function that must be compiled."""
    functions = {function.signature.name: function for function in graph_def.library.function}
    nodes = {node.name: node for node in graph_def.node}
    waiting = [_node_name(name) for name in tensor_names]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        node = nodes[name]
        waiting.extend(_node_name(source) for source in node.input)
        if _must_compile(node) or any(_function_needs_xla(called, functions, seen) for called in _called(node)):
            return True
    return False


def _function_needs_xla(name: str, functions: dict[str, Any], seen: set[str]) -> bool:
    key = f"function {name}"
    if key in seen or name not in functions:
        return False
    seen.add(key)
    function = functions[name]
    return _must_compile(function) or any(
        _must_compile(node) or any(_function_needs_xla(called, functions, seen) for called in _called(node))
        for node in function.node_def
    )


def _must_compile(holder: Any) -> bool:
    return _MUST_COMPILE in holder.attr and bool(holder.attr[_MUST_COMPILE].b)


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (function.name for function in value.list.func)


def _node_name(reference: str) -> str:
    return reference.removeprefix("^").partition(":")[0]
