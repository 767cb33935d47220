"""Who is calling. The boundary finds it out; whoever needs it on a request's way asks `current`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from serving.gateway.errors import MissingScopeError


class Scope(StrEnum):
    """What a caller may do."""

    RANK = "rank"
    RECORD = "record"
    SELECT = "select"
    ADMIN = "admin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """Calls per second in the long run, and at once after a quiet time."""

    requests_per_s: float
    burst: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """`how` is what the name rests on: "token", "jwt", "certificate" or "address"."""

    name: str
    how: str
    scopes: frozenset[Scope]
    rate: Rate | None = None  # None: the default

    def require(self, scope: Scope, *, act: str) -> None:
        """Raises MissingScopeError."""
        if scope not in self.scopes:
            held = ", ".join(sorted(self.scopes)) or "none"
            raise MissingScopeError(
                f"{act} needs scope {scope}, and {self.how} {self.name!r} has {held}; ask for a token with it",
                scope=scope.value,
                caller=self.name,
            )


EVERY_SCOPE: Final = frozenset(Scope)
NOBODY: Final = Caller(name="", how="", scopes=frozenset())
_current: ContextVar[Caller] = ContextVar("caller", default=NOBODY)


def current() -> Caller:
    """The caller of the request that this task works for."""
    return _current.get()


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    token = _current.set(caller)
    try:
        yield
    finally:
        _current.reset(token)
