"""Where candidates come from: the caller, or the sources the caller names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Final

from serving.gateway.domain import Candidate, ItemId, ModelUser, Query, Source
from serving.gateway.errors import CandidatesError, ModelError
from serving.gateway.item_table import ItemTable
from serving.gateway.ports import Ports

MOST: Final = 1000


async def gather(
    query: Query,
    model_user: ModelUser,
    items: ItemTable,
    ports: Ports,
    *,
    sources: Sequence[Source],
    fallback: Source,
    timeout_s: float,
) -> tuple[tuple[Candidate, ...], CandidatesError | None]:
    """The candidates, 1000 at most; `sources` are the policy's, for a caller who names none.

    When retrieval fails, the state's fallback list stands in for it.
    """
    if query.candidate_item_ids:
        return _from(Source.CALLER, query.candidate_item_ids), None
    failure = None
    found: list[Candidate] = []
    for source in query.sources or sources:
        if source is Source.RETRIEVAL:
            try:
                found += _from(source, await ports.scorer.retrieve(model_user, timeout_s=timeout_s))
            except ModelError as error:
                failure = CandidatesError(error.cause, f"retrieval: {error.detail}")
                found += _from(Source.FALLBACK, items.top(fallback, ports.candidates_per_source))
        else:
            found += _from(source, items.top(source, ports.candidates_per_source))
    return tuple(found[:MOST]), failure


def _from(source: Source, item_ids: Sequence[ItemId]) -> tuple[Candidate, ...]:
    return tuple(map(Candidate, item_ids, repeat(source)))
