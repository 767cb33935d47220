"""One whole answer, every field of it, as checked in. To accept a change: delete the file, run, and read the diff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from longtail.activation.v1 import activation_pb2 as pb
from tests.gateway.conftest import Start
from tests.gateway.fakes import MemoryCatalog, World, item_table

GOLDEN = Path(__file__).with_name("golden_ranking.json")


async def ask(start: Start, world: World) -> pb.RankItemsResponse:
    world.catalog = MemoryCatalog(item_table(withdrawn=["i07"]))
    world.model.scores = {f"i{place:02}": 0.9 - place / 50 for place in range(40)}
    running = await start(world)
    return await running.activation.RankItems(
        pb.RankItemsRequest(
            user_id="dormant",
            limit=6,
            explain=True,
            exclude_item_ids=["i05"],
            idempotency_key="golden",
            surface="home",
            channel="email",
        )
    )


async def test_a_whole_answer_is_as_checked_in(start: Start, world: World) -> None:
    answer: dict[str, Any] = json_format.MessageToDict(await ask(start, world), preserving_proto_field_name=True)
    assert [timing.pop("duration_us", None) for timing in answer["timings"]]
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
        pytest.fail(f"{GOLDEN.name} was missing and is written: read it, and run again")
    assert answer == json.loads(GOLDEN.read_text())


async def test_each_value_is_the_product_of_its_terms(start: Start, world: World) -> None:
    answer = await ask(start, world)
    for item in answer.items:
        product = np.prod([reason.term_value**reason.weight for reason in item.reasons])
        assert item.value == pytest.approx(product, rel=1e-5)
        assert all(reason.text for reason in item.reasons)
        relevance = next(reason for reason in item.reasons if reason.term == "relevance")
        assert relevance.term_value == pytest.approx(item.score)


async def test_without_explain_no_reason_is_given(start: Start, world: World) -> None:
    running = await start(world)
    answer = await running.activation.RankItems(pb.RankItemsRequest(user_id="dormant"))
    assert not any(item.reasons for item in answer.items)
