"""What was shown and not chosen is learnt from where it says something, and not where it is noise."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.decisions.impressions import SCHEMA, schema_of
from feature_repo.errors import LongtailError
from tests.training.conftest import ITEMS_PER_TASTE, SMALL, START, TASTES, USERS, run_on, write_log
from training.evaluation.scoring import model_scorer
from training.examples.lessons import make_examples
from training.examples.shown import PER_MOMENT, Refused, read_refused
from training.examples.split import split
from training.fitting.checkpoint import Checkpoints
from training.fitting.fitting import fit
from training.fitting.untrained import new_recommender
from training.log.engagements import Engagements, from_rows
from training.vocabulary import FIRST_ROW

DAY_S = 86_400
LOG = from_rows([("u", "a", "view", 0.0), ("u", "b", "view", 10.0 * DAY_S), ("v", "c", "view", 5.0)])


def impressions(rows: list[dict[str, object]], *, window_days: float = 7.0) -> pa.Table:
    usual = {
        "user_id": "u", "item_id": "a", "rank": 1, "shown_at": START, "weight": 1.0, "examination": 1.0, "label": False
    }  # fmt: skip
    columns = {name: [(usual | row).get(name) for row in rows] for name in SCHEMA.names}
    return pa.table(columns, schema=schema_of(window_days))


def written(path: Path, rows: list[dict[str, object]], *, window_days: float = 7.0) -> Path:
    pq.write_table(impressions(rows, window_days=window_days), path)
    return path


def read(path: Path, rows: list[dict[str, object]], log: Engagements = LOG) -> Refused:
    return read_refused(written(path / "shown.parquet", rows), log)


def test_what_was_chosen_or_is_unknown_is_no_negative(tmp_path: Path) -> None:
    found = read(tmp_path, [{}, {"item_id": "b", "label": True}, {"item_id": "x"}, {"user_id": "w"}])
    assert LOG.item_ids[found.item].tolist() == ["a"]


def test_a_negative_counts_by_examination_and_inverse_propensity(tmp_path: Path) -> None:
    """Rank 1 was never drawn: it was looked at no less than rank 2. Of rank 4 and what is below nothing is known."""
    ranks: list[dict[str, object]] = [{"rank": 1, "examination": None}, {"rank": 2, "examination": 0.8, "weight": 5.0}]
    ranks += [{"rank": 3, "examination": 0.4}, {"rank": 4, "examination": None}]
    found = read(tmp_path, [row | {"shown_at": START + timedelta(days=n)} for n, row in enumerate(ranks)])
    np.testing.assert_allclose(found.weight, [0.8, 4.0, 0.4], rtol=1e-6)


def test_what_was_not_known_at_the_cut_is_not_learnt_from(tmp_path: Path) -> None:
    found = read(tmp_path, [{}, {"shown_at": START + timedelta(days=3), "item_id": "b"}])
    cut_us = int((START + timedelta(days=9)).timestamp() * 1e6)
    assert LOG.item_ids[found.before(cut_us).item].tolist() == ["a"]


def test_the_next_items_of_each_user_are_found() -> None:
    rng = np.random.default_rng(0)
    user, time_us = np.sort(rng.integers(0, 6, 60)), rng.integers(0, 50, 60)
    order = np.lexsort((time_us, user))
    made = Refused(
        user=user[order].astype(np.int32),
        item=np.arange(60, dtype=np.int32),
        time_us=time_us[order],
        known_us=time_us[order],
        weight=np.ones(60, np.float32),
    )
    asked, since = rng.integers(0, 8, 40), rng.integers(0, 60, 40)
    items, weights = made.after(asked, since)
    for one, at, row, weight in zip(asked, since, items, weights, strict=True):
        later = np.flatnonzero((made.user == one) & (made.time_us >= at))[:PER_MOMENT]
        assert row.tolist() == [*later, *[-1] * (PER_MOMENT - len(later))]
        assert (weight > 0).sum() == len(later)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (None, "cannot be read"),
        (pa.table({"user_id": ["u"]}), "lacks the columns item_id"),
        (impressions([{}]).replace_schema_metadata({b"longtail.impressions.schema_version": b"1"}), "version 1"),
        (impressions([{"examination": None}]), "let exploration run"),
        (impressions([{"weight": -1.0}]), "below 0"),
    ],
)
def test_a_file_that_cannot_teach_is_refused(tmp_path: Path, table: pa.Table | None, says: str) -> None:
    file = tmp_path / "shown.parquet"
    if table is not None:
        pq.write_table(table, file)
    with pytest.raises(LongtailError, match=says):
        read_refused(file, LOG)


def test_a_run_with_a_missing_file_does_not_start(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"impressions": tmp_path / "none.parquet"})
    with pytest.raises(LongtailError, match="cannot be read"):
        run_on(write_log(tmp_path / "events", 0.0), settings)


# The transformer's head learns from item vectors that it cannot move, so that it takes more to tell.
STRENGTH = {"attention": (4, 1.0), "transformer": (8, 10.0)}  # epochs, weight of each item shown


def lead_over_even_items(tmp_path: Path, encoder: str, *, shows_even: bool) -> float:
    """How far a trained model puts items of odd numbers above the others; in the log they are alike.

    Shown and not chosen are those of even numbers, or any.
    """
    epochs, weight = STRENGTH[encoder]
    directory = write_log(tmp_path / "events", 0.0)
    shelves = [f"item-{taste}-{number}" for taste in range(TASTES) for number in range(ITEMS_PER_TASTE)]
    pool = [item for item in shelves if not shows_even or is_even(item)]
    rng = np.random.default_rng(5)
    rows = [
        {"user_id": f"user-{user}", "item_id": rng.choice(pool), "shown_at": START + timedelta(days=day)}
        for user in range(USERS)
        for day in range(70)
    ]
    file = written(tmp_path / "shown.parquet", [row | {"weight": weight} for row in rows], window_days=0)
    settings = SMALL.model_copy(update={"encoder": encoder, "impressions": file})
    run = run_on(directory, settings)
    question = split(run.log, "temporal", settings).validation
    prepared = run.prepared(question)
    examples = make_examples(prepared, run.user_features, settings)
    recommender = new_recommender(prepared, examples, settings, epochs=epochs)
    checkpoints = Checkpoints(directory=tmp_path / "checkpoints", fingerprint="")
    fit(recommender, examples, settings, epochs=epochs, checkpoints=checkpoints, resume=False)
    scorer = model_scorer(
        recommender, question, prepared.tables, run.user_columns(question.moments).features, prepared.popularity
    )
    means = scorer(slice(0, len(question.moments)))[:, FIRST_ROW:].mean(axis=0)
    even = np.array([is_even(item) for item in run.log.item_ids[prepared.known_items]])
    return float((means[~even].mean() - means[even].mean()) / means.std())


def is_even(item: str) -> bool:
    return int(item.rpartition("-")[2]) % 2 == 0


@pytest.mark.parametrize("encoder", STRENGTH)
def test_what_is_shown_and_not_chosen_sinks(tmp_path: Path, encoder: str) -> None:
    assert lead_over_even_items(tmp_path, encoder, shows_even=True) > 0.4


@pytest.mark.parametrize("encoder", STRENGTH)
def test_what_is_shown_at_random_teaches_nothing(tmp_path: Path, encoder: str) -> None:
    assert abs(lead_over_even_items(tmp_path, encoder, shows_even=False)) < 0.3
