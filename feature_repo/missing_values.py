"""What may stand in for a user feature that is missing: the strategies, by name.

keep         nothing: the model is told that it is missing
mean         the mean of the training users
median       their median
similar      the mean of the training users whose history is about as long
constant(x)  the number x
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

KEEP: Final = "keep"
MEAN: Final = "mean"
MEDIAN: Final = "median"
SIMILAR: Final = "similar"
CONSTANT: Final = "constant"
LARGEST: Final = 3.4e38  # a float32 holds no more
ALLOWED: Final = f"{KEEP}, {MEAN}, {MEDIAN}, {SIMILAR} or {CONSTANT}(x) with a number x"


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One of them; `constant` is the x of constant(x)."""

    kind: str
    constant: float | None = None

    def __str__(self) -> str:
        return self.kind if self.constant is None else f"{self.kind}({self.constant:.9g})"

    @property
    def is_learnt(self) -> bool:
        """True where the value comes from the training users."""
        return self.kind in (MEAN, MEDIAN, SIMILAR)


def parse(text: str) -> Strategy:
    """The strategy of that name. Raises ValueError that says what is allowed.

    >>> str(parse("median")), str(parse("constant( 0.50 )"))
    ('median', 'constant(0.5)')
    """
    name = text.strip()
    if name in (KEEP, MEAN, MEDIAN, SIMILAR):
        return Strategy(kind=name)
    given = re.fullmatch(rf"{CONSTANT}\((.*)\)", name)
    constant = _number(given[1]) if given else None
    if constant is None:
        raise ValueError(f"{text!r} is no strategy for missing values; allowed is {ALLOWED}")
    return Strategy(kind=CONSTANT, constant=constant)


def _number(text: str) -> float | None:
    """What the text says, where the model can hold it."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and abs(number) <= LARGEST else None
