"""A decision comes out of the log as it went in, and is computed again to the last bit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.contract import MODEL_USER_FEATURES
from feature_repo.decisions import finding, records
from feature_repo.decisions.lines import EMPTY_LINE
from feature_repo.decisions.segments import close_segments, erase_user
from feature_repo.errors import LongtailError
from feature_repo.lifecycle import Lifecycle
from longtail.activation.v1 import activation_pb2 as pb
from serving.gateway.decisions.decision_log import JsonlDecisionLog
from serving.gateway.decisions.record import encode
from serving.gateway.decisions.replay import explained, replay
from serving.gateway.domain import Objective, Query, Ranking, User, UserId
from serving.gateway.observing.telemetry import Telemetry
from serving.gateway.policy.book import parse
from serving.gateway.policy.document import Policy
from serving.gateway.policy.experiments import assign
from serving.gateway.policy.slate import fill, seed_of, unit_of
from serving.gateway.policy.tuning import Novelty, with_novelty
from serving.gateway.settings import Sync
from tests.gateway.conftest import Start
from tests.gateway.fakes import NOW_S, World, scored
from tests.gateway.test_experiments import TWO_LAYERS

POLICY = parse(TWO_LAYERS.format(rate=0.0), where="test")
shares = st.floats(0, 1, width=32)
candidates = st.lists(
    st.tuples(shares, shares, st.floats(0, 5, width=32), st.integers(0, 3), shares, st.integers(0, 100)), max_size=30
)


def decided(
    user_id: str, rows: list[tuple[float, float, float, int, float, int]], state: Lifecycle, limit: int
) -> bytes:
    """The line of a decision by the policy itself."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(6)]
    relevance, novelty, exposures, categories, rates, trials = columns
    given = scored(
        relevance, novelty=novelty, exposures=exposures, categories=[int(one) for one in categories], rates=rates,
        trials=trials,
    )  # fmt: skip
    query = Query(user_id=UserId(user_id), limit=limit, objective=Objective.AUTO)
    user = User(
        user_id=query.user_id,
        state=state,
        days_in_state=1,
        p_alive=0.25,
        tail_percentile=0.3,
        last_seen_unix_s=None,
        history=(),
    )
    found = assign(POLICY, query.user_id)
    seed = seed_of(found.policy, found.experiments, unit_of(query), now_unix_s=NOW_S)
    items, dropped = fill(given, query=query, user=user, policy=found.policy, seed=seed)
    ranking = Ranking(
        decision_id="d",
        at_unix_s=NOW_S,
        user=user,
        items=items,
        groups={},
        model=given.model,
        policy_version=POLICY.version,
        experiments=found.experiments,
        dropped=dropped,
        scored=given,
        unit=unit_of(query),
    )
    return encode(query, ranking)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.text(min_size=1, max_size=6), candidates, st.sampled_from(Lifecycle), st.integers(1, 12))
def test_a_replay_is_identical_to_the_last_bit(
    user_id: str, rows: list[tuple[float, float, float, int, float, int]], state: Lifecycle, limit: int
) -> None:
    (decision,) = records.decode([decided(user_id, rows, state, limit)], where=Path("line")).to_pylist()
    result = replay(decision, POLICY)
    assert result.differences == ()
    shown = explained(decision, result)
    assert [item.value for item in shown] == [item["value"] for item in decision["items"]]
    assert all(item.terms for item in shown)


def test_another_policy_or_another_number_is_told() -> None:
    rows = [(0.9 - place / 40, 0.5, 0.0, place % 3, 0.1, 5) for place in range(20)]
    (decision,) = records.decode([decided("u", rows, Lifecycle.DORMANT, 5)], where=Path("line")).to_pylist()
    assert not replay(decision, Policy.model_validate({"objectives": {"activate": {"relevance": 2, "novelty": 0}},
                                                       "layers": POLICY.layers})).is_identical  # fmt: skip
    decision["items"][0]["value"] += 1e-12
    assert replay(decision, POLICY).differences


def test_a_line_of_the_first_version_is_read_and_computed_again() -> None:
    path = Path(__file__).with_name("decision_line_v1.jsonl")
    (decision,) = records.decode(path.read_bytes().splitlines(), where=path).to_pylist()
    assert decision["candidate_categories"][:3] == ["", "a", "b"]
    assert len(decision["items"]) == 6
    then = with_novelty(POLICY, {"activate": Novelty(0.5, 1), "retain": Novelty(0.1, 1), "explore": Novelty(0.05, 1)})
    assert replay(decision, then).is_identical


def same(one: pa.Table, other: pa.Table) -> bool:
    return str(one.to_pylist()) == str(other.to_pylist())  # NaN is not itself


def opened_in(directory: Path) -> list[Path]:
    return list(directory.glob("*.jsonl"))


def open_log(directory: Path, *, segment_bytes: int = 1 << 20) -> JsonlDecisionLog:
    return JsonlDecisionLog(directory, capacity=100, segment_bytes=segment_bytes, sync=Sync.EACH, telemetry=Telemetry())


async def test_what_is_open_and_what_is_closed_read_the_same(start: Start, world: World, tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=12_000)
    world.decisions = log  # type: ignore[assignment]
    running = await start(world)
    for place in range(20):
        await running.activation.RankItems(pb.RankItemsRequest(user_id=f"u{place % 5}", idempotency_key=f"{place}"))
    opened = records.read(tmp_path)
    assert close_segments(tmp_path) >= 1
    assert opened_in(tmp_path), "the one being written stays"
    assert same(records.read(tmp_path), opened)
    log.close()
    assert close_segments(tmp_path) == 1
    assert not opened_in(tmp_path)
    closed = records.read(tmp_path)
    assert same(closed, opened)
    assert closed.num_rows == 20
    assert {len(told) for told in closed["user_features"].to_pylist()} == {len(MODEL_USER_FEATURES)}
    for row in opened.to_pylist():
        found = finding.find(tmp_path, row["decision_id"])
        assert str(found) == str(row)
        assert replay(row, Policy()).is_identical
    assert finding.find(tmp_path, "none") is None


async def test_the_last_line_of_a_decision_is_what_was_answered(start: Start, world: World, tmp_path: Path) -> None:
    for limit in (2, 4):
        log = open_log(tmp_path)
        world.decisions = log  # type: ignore[assignment]
        running = await start(world)
        request = pb.RankItemsRequest(user_id="casual", idempotency_key="same", limit=limit)
        answer = await running.activation.RankItems(request)
        log.close()
        if limit == 2:
            close_segments(tmp_path)
    found = finding.find(tmp_path, answer.decision_id)
    assert found is not None
    assert len(found["items"]) == 4
    assert [len(row["items"]) for row in records.read(tmp_path, columns=["items"]).to_pylist()] == [4]


def write_segment(directory: Path, ids: Sequence[str], *, user_id: str = "u7") -> None:
    """Decisions about one user, each with its place as its limit; closing makes several groups of many."""
    wide = {"candidate_item_ids": [f"item {place}" for place in range(60)], "candidate_sources": ["request"]}
    codes = {"source_codes": [0] * 60, "candidate_categories": [""], "category_codes": [0] * 60}
    said = {**EMPTY_LINE, **wide, **codes, "user_id": user_id}
    lines = [{**said, "decision_id": one, "limit": place} for place, one in enumerate(ids)]
    (directory / "1-1.jsonl").write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


@contextmanager
def arrow_alone() -> Iterator[pa.MemoryPool]:
    """The pool of all that Arrow allocates meanwhile."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        yield pool
    finally:
        pa.set_memory_pool(before)


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("name", ["u7", f"{1001:032x}", f"{1002:032x}"], ids=["a user", "none", "a decision"])
def test_one_decision_is_found_without_reading_the_others(tmp_path: Path, name: str, is_closed: bool) -> None:
    ids = [f"{place:032x}" for place in range(0, 4000, 2)]
    write_segment(tmp_path, ids, user_id="u7")
    if is_closed:
        close_segments(tmp_path)
    with arrow_alone() as pool:
        found = finding.find(tmp_path, name)
    assert [found["decision_id"]] == [name] if found else name not in ids
    assert pool.max_memory() < records.read(tmp_path).nbytes / 4


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize(("ids", "last"), [(["a", "a", "b"], 1), (["a"] * 1001 + ["b"] * 40 + ["a", "b"], 1041)])
def test_of_the_lines_of_one_segment_the_last_is_found(
    tmp_path: Path, ids: list[str], last: int, is_closed: bool
) -> None:
    write_segment(tmp_path, ids)
    if is_closed:
        close_segments(tmp_path)
    found = finding.find(tmp_path, "a")
    assert found is not None
    assert found["limit"] == last


async def test_a_forgotten_user_is_gone_also_from_what_is_being_written(
    start: Start, world: World, tmp_path: Path
) -> None:
    log = open_log(tmp_path, segment_bytes=12_000)
    world.decisions = log  # type: ignore[assignment]
    running = await start(world)

    async def ask(count: int) -> None:
        for place in range(count):
            await running.activation.RankItems(pb.RankItemsRequest(user_id=f"u{place % 3}"))

    await ask(12)
    close_segments(tmp_path)
    assert await asyncio.to_thread(erase_user, tmp_path, "u1") == 4
    await ask(3)
    users = records.read(tmp_path, columns=["user_id"])["user_id"].to_pylist()
    assert sorted(users) == ["u0"] * 5 + ["u1"] + ["u2"] * 5
    log.close()
    assert erase_user(tmp_path, "u1") == 1
    assert erase_user(tmp_path, "nobody") == 0
    close_segments(tmp_path)
    assert records.read(tmp_path).num_rows == 10


def test_a_torn_last_line_is_left_out_and_any_other_is_told(tmp_path: Path) -> None:
    line = decided("u", [], Lifecycle.NEW, 1)
    path = tmp_path / "20260101T000000-1.jsonl"
    path.write_bytes(line + line[:40])
    assert records.read(tmp_path).num_rows == 1
    path.write_bytes(line[:40] + b"\n" + line)
    with pytest.raises(LongtailError, match=r":1 is no decision"):
        records.read(tmp_path)
    path.write_bytes(line.replace(b'"v":2', b'"v":9'))
    with pytest.raises(LongtailError, match="schema version 9, this longtail reads 1 to 2"):
        records.read(tmp_path)


def test_an_empty_log_has_the_schema(tmp_path: Path) -> None:
    assert records.read(tmp_path / "none").schema.names == records.SCHEMA.names
