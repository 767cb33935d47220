"""Whom the load test asks about."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.errors import LoadTestError
from loadtest.population import UserDraws, read_ids, synthetic_ids
from loadtest.profiles import UserMix

MIXES = st.builds(
    UserMix,
    head=st.floats(0.1, 1),
    tail=st.floats(0.1, 1),
    unseen=st.floats(0.1, 1),
    head_fraction=st.floats(0.01, 0.9),
    zipf_exponent=st.floats(0, 3),
)


@given(mix=MIXES, users=st.integers(10, 500), seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_each_kind_of_user_gets_its_share(mix: UserMix, users: int, seed: int) -> None:
    draws = UserDraws(synthetic_ids("user", users), mix, seed=seed)
    counts = Counter(draws.draw().kind for _ in range(4000))
    total = mix.head + mix.tail + mix.unseen
    for kind, weight in mix.weights().items():
        assert counts[kind] / 4000 == pytest.approx(weight / total, abs=0.05)  # over 6 standard errors


@given(mix=MIXES, users=st.integers(0, 200), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_the_same_seed_draws_the_same_users(mix: UserMix, users: int, seed: int) -> None:
    ids = synthetic_ids("user", users)
    first, second = (UserDraws(ids, mix, seed=seed) for _ in range(2))
    assert [first.draw() for _ in range(50)] == [second.draw() for _ in range(50)]


def test_another_seed_draws_other_users() -> None:
    ids = synthetic_ids("user", 1000)
    first, second = (UserDraws(ids, UserMix(), seed=seed) for seed in (1, 2))
    assert [first.draw() for _ in range(50)] != [second.draw() for _ in range(50)]


@given(mix=MIXES, users=st.integers(0, 100), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_head_and_tail_users_are_known_and_unseen_ones_are_new_each_time(mix: UserMix, users: int, seed: int) -> None:
    known = set(synthetic_ids("user", users)) | {f"loadtest-unseen-{seed}-1"}
    draws = UserDraws(sorted(known), mix, seed=seed)
    drawn = [draws.draw() for _ in range(200)]
    unseen = [user.user_id for user in drawn if user.kind == "unseen"]
    assert len(set(unseen)) == len(unseen)
    assert not known & set(unseen)
    assert known >= {user.user_id for user in drawn if user.kind != "unseen"}


def test_the_head_is_drawn_by_rank_and_the_tail_evenly() -> None:
    ids = synthetic_ids("user", 1000)
    mix = UserMix(head=1, tail=1, unseen=0, head_fraction=0.1, zipf_exponent=1.0)
    draws = UserDraws(ids, mix, seed=3)
    drawn = [draws.draw() for _ in range(20_000)]
    head = Counter(user.user_id for user in drawn if user.kind == "head")
    tail = Counter(user.user_id for user in drawn if user.kind == "tail")
    assert set(head) <= set(ids[:100])
    assert set(tail) <= set(ids[100:])
    assert head["user-1"] / head["user-10"] == pytest.approx(10, rel=0.4)
    assert max(tail.values()) < 40  # 11 expected of each


def test_one_user_is_the_whole_head_and_the_tail_is_given_up() -> None:
    draws = UserDraws(["only"], UserMix(), seed=1)
    assert {draws.draw().kind for _ in range(100)} == {"head", "unseen"}


def test_a_mix_that_no_id_can_meet_is_refused() -> None:
    with pytest.raises(LoadTestError, match="more user ids"):
        UserDraws([], UserMix(unseen=0), seed=1)


def test_ids_of_a_text_file_are_its_lines_in_order_without_blanks_and_repeats(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    path.write_text("b\n\n  a \nb\nдолгий хвост\n", "utf-8")
    assert read_ids(path, "user_id") == ["b", "a", "долгий хвост"]


def test_ids_of_a_parquet_file_come_most_events_first(tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": ["rare", "often", None, "some"], "events": [1, 50, 7, 7]}), path)
    assert read_ids(path, "user_id") == ["often", "some", "rare"]


def test_ids_of_a_parquet_file_without_events_come_in_order(tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": ["b", "a"]}), path)
    assert read_ids(path, "user_id") == ["b", "a"]


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    path.write_text("user_id\na\n")
    with pytest.raises(LoadTestError, match=r"not a Parquet file.*one id a line"):
        read_ids(path, "user_id")


def test_a_torn_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(LoadTestError, match="cannot read ids"):
        read_ids(path, "user_id")


def test_a_parquet_file_of_other_columns_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"uid": ["a"]}), path)
    with pytest.raises(LoadTestError, match=r"no column user_id; it has uid"):
        read_ids(path, "user_id")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe"])
def test_a_file_without_readable_ids_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "users.txt"
    path.write_bytes(content)
    with pytest.raises(LoadTestError, match=r"no ids|cannot read"):
        read_ids(path, "user_id")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="cannot read ids"):
        read_ids(tmp_path / "none.txt", "user_id")
