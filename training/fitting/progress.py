"""How a training tells what it does, and its learning curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of the learning curve."""

    epoch: int  # from 1
    loss: float
    validation_ndcg: float | None  # at 10; None where nothing is validated

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def measured(self) -> dict[str, float]:
        """What there is to plot."""
        score = self.validation_ndcg
        return {"loss": self.loss} | ({} if score is None else {"validation_ndcg": score})


OnEpoch = Callable[[Epoch], None]
OnStep = Callable[[int, int], None]  # (steps done, steps in all)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How a run tells what it does; the default is silent. The first word of a phase's name stands for it."""

    on_phase: Callable[[str, int], None] = lambda name, epochs: None
    on_epoch: OnEpoch = lambda epoch: None
    on_step: OnStep = lambda done, total: None
    on_note: Callable[[str], None] = lambda note: None
