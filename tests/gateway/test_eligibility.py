from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.domain import Candidates, Drop, ItemId, Source
from serving.gateway.eligibility import divide
from tests.gateway.fakes import item_table

ITEMS = [ItemId(f"i{place:02}") for place in range(12)]
TABLE = item_table(8, withdrawn=["i03"])  # i08 to i11 are unknown to it
sets = st.frozensets(st.sampled_from(ITEMS))


@given(st.lists(st.sampled_from(ITEMS)), sets, sets)
def test_kept_and_dropped_are_what_came_in(
    item_ids: list[ItemId], seen: frozenset[ItemId], excluded: frozenset[ItemId]
) -> None:
    candidates = Candidates.of(Source.CALLER, tuple(item_ids))
    division = divide(candidates, seen=seen, excluded=excluded, items=TABLE)
    kept = [candidate.item_id for candidate in division.kept]
    assert len(kept) + sum(division.dropped.values()) == len(item_ids)
    assert set(kept) == set(item_ids) - seen - excluded - {"i03"}
    assert len(set(kept)) == len(kept)


def test_the_first_source_that_names_an_item_keeps_it() -> None:
    candidates = Candidates((ITEMS[1], ITEMS[1]), (Source.RETRIEVAL, Source.POPULAR))
    division = divide(candidates, seen=set(), excluded=set(), items=TABLE)
    assert [candidate.source for candidate in division.kept] == [Source.RETRIEVAL]
    assert division.dropped == {Drop.DUPLICATE: 1}


def test_each_drop_has_its_reason() -> None:
    candidates = Candidates.of(Source.CALLER, tuple(ITEMS[:4]))
    division = divide(candidates, seen={ITEMS[0]}, excluded={ITEMS[1]}, items=TABLE)
    assert [candidate.item_id for candidate in division.kept] == [ITEMS[2]]
    assert division.dropped == {Drop.SEEN: 1, Drop.EXCLUDED: 1, Drop.WITHDRAWN: 1}
