"""Where candidates come from: the caller, or the sources the caller names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import Final

from serving.gateway.domain import Candidates, ModelUser, Query, Source
from serving.gateway.errors import CandidatesError, ModelError
from serving.gateway.features.item_table import ItemTable
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
) -> tuple[Candidates, CandidatesError | None]:
    """The candidates, 1000 at most; `sources` are the policy's, for a caller who names none.

    When retrieval fails, the state's fallback list stands in for it.
    """
    if query.candidate_item_ids:
        return Candidates.of(Source.CALLER, query.candidate_item_ids), None
    failure = None
    found: list[Candidates] = []
    for source in query.sources or sources:
        if source is Source.RETRIEVAL:
            try:
                found.append(Candidates.of(source, await ports.scorer.retrieve(model_user, timeout_s=timeout_s)))
            except ModelError as error:
                failure = CandidatesError(error.cause, f"retrieval: {error.detail}")
                found.append(Candidates.of(Source.FALLBACK, items.top(fallback, ports.candidates_per_source)))
        else:
            found.append(Candidates.of(source, items.top(source, ports.candidates_per_source)))
    return _joined(found), failure


def _joined(found: Sequence[Candidates]) -> Candidates:
    item_ids = chain.from_iterable(each.item_ids for each in found)
    sources = chain.from_iterable(each.sources for each in found)
    return Candidates(tuple(islice(item_ids, MOST)), tuple(islice(sources, MOST)))
