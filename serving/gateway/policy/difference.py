"""What two policies say differently, key by key: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serving.gateway.policy.document import Policy


@dataclass(frozen=True, kw_only=True)
class Change:
    """One key; None where a policy does not have it."""

    key: str
    before: Any
    after: Any


def changes(before: Policy, after: Policy) -> list[Change]:
    """In the order of the keys of both. Named entries, such as layers and arms, are compared by their names."""
    old, new = dict(_leaves(before.model_dump(mode="json"))), dict(_leaves(after.model_dump(mode="json")))
    return [
        Change(key=key, before=old.get(key), after=new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) and "name" in one for one in value):
        for one in value:
            inner = {name: part for name, part in one.items() if name != "name"}
            yield from _leaves(inner, f"{key}[{one['name']}]")
    else:
        yield key, value
