"""What contradicts itself in a policy, in words: pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.gateway.policy.document import LayerSection

DAYS = (1, 7, 30)
FIXED = ("name", "holdout", "layers")  # what the arm of an experiment cannot change


def caps_contradiction(per_1d: int, per_7d: int, per_30d: int, spacing_h: float) -> str:
    """Empty when the caps agree.

    >>> caps_contradiction(1, 2, 6, 24.0)
    ''
    >>> caps_contradiction(3, 2, 6, 0.0)
    'contradictory caps: contacts_1d = 3 can never be reached with contacts_7d = 2; lower it to 2, or raise contacts_7d'
    """
    caps = dict(zip(DAYS, (per_1d, per_7d, per_30d), strict=True))
    for short, long in ((1, 7), (7, 30)):
        if caps[short] > caps[long]:
            return (
                f"contradictory caps: contacts_{short}d = {caps[short]} can never be reached with contacts_{long}d = "
                f"{caps[long]}; lower it to {caps[long]}, or raise contacts_{long}d"
            )
    for days, cap in caps.items():
        most = math.ceil(days * 24 / spacing_h) if spacing_h > 0 else cap
        if cap > most:
            return (
                f"contradictory caps: contacts_{days}d = {cap} can never be reached with spacing_h = {spacing_h:g}, "
                f"which allows {most}; lower one of them"
            )
    return ""


def overlap(where: str, first: Iterable[str], second: Iterable[str]) -> None:
    """Raises ValueError for a name that stands in both."""
    if both := sorted(set(first) & set(second)):
        raise ValueError(f"{where} both name {', '.join(both[:5])}; name each in one of them")


def spelled(channel: object) -> str:
    """A channel's name as the rules compare it: policy and events are written by different people.

    >>> spelled(" E-Mail "), spelled("e-mail")
    ('e-mail', 'e-mail')
    """
    return str(channel).strip().casefold()


def repeated(where: str, names: Iterable[str]) -> None:
    """Raises ValueError for a name that stands twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{where} {name!r} is there twice; names must differ")
        seen.add(name)


def paths(overrides: Mapping[str, object], prefix: str = "") -> list[str]:
    """The keys that a nested mapping sets, dotted.

    >>> paths({"objectives": {"activate": {"novelty": 1.0}}, "name": "x"})
    ['objectives.activate.novelty', 'name']
    """
    found: list[str] = []
    for name, value in overrides.items():
        found += paths(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [prefix + name]
    return found


def merged(document: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """The document with the overrides' keys replaced, at any depth."""
    result = dict(document)
    for name, value in overrides.items():
        old = result.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[name] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def experiments_contradiction(layers: Sequence[LayerSection]) -> str:
    """Empty when every user can get at most one arm a layer, and no two layers change the same key."""
    repeated("the layer", (layer.name for layer in layers))
    repeated("the experiment", (one.name for layer in layers for one in layer.experiments))
    changed: dict[str, str] = {}
    for layer in layers:
        if (total := sum(one.share for one in layer.experiments)) > 1 + 1e-9:
            return f"layers.{layer.name}: its experiments take {total:g} of the users together; they exclude each other"
        keys: set[str] = set()
        for experiment in layer.experiments:
            repeated(f"experiment {experiment.name}: the arm", (arm.name for arm in experiment.arms))
            repeated(
                f"experiment {experiment.name}: the user", (user for arm in experiment.arms for user in arm.always)
            )
            keys.update(key for arm in experiment.arms for key in paths(arm.policy))
        for key in sorted(keys):
            if key.partition(".")[0] in FIXED:
                return f"layers.{layer.name}: an arm cannot change {key}"
            if key in changed:
                return f"layers {changed[key]} and {layer.name} both change {key}; only one layer may"
            changed[key] = layer.name
    return ""
