"""What was shown becomes training data, with how it came to be shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.decisions.impressions import SCHEMA
from feature_repo.errors import LongtailError
from outcomes.attribution import DAY_S
from outcomes.errors import OutcomeError
from outcomes.impressions import Impressions, impressions_of, write
from tests.outcomes.test_attribution import T, events, judged, log


def made(decisions: Any, happened: Any, *, until: float = T + 30 * DAY_S, most: float = 20.0) -> Impressions:
    return impressions_of(judged(decisions, happened), window_days=7, until_unix_s=until, most_weight=most)


def rows(found: Impressions) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = found.rows.to_pylist()
    return listed


def test_each_item_shown_is_a_row_with_its_propensity_and_outcome() -> None:
    found = made(log(("d", "u", T, ["a", "b"])), events({"unix_s": T + 60, "item_id": "b", "decision_id": "d"}))
    first, second = rows(found)
    assert (first["item_id"], first["rank"], first["label"], first["weight"]) == ("a", 1, False, 1.0)
    assert (second["item_id"], second["rank"], second["label"], second["weight"]) == ("b", 2, True, 10.0)
    assert second["is_exploration"]
    assert second["first_outcome_at"].timestamp() == T + 60
    assert first["first_outcome_at"] is None
    assert second["decided_at"].timestamp() == second["shown_at"].timestamp() == T


def test_with_exposures_only_what_was_exposed_counts_from_then() -> None:
    exposed = {"event_type": "exposure", "unix_s": T + 100, "item_id": "b", "decision_id": "d"}
    (row,) = rows(made(log(("d", "u", T, ["a", "b"])), events(exposed)))
    assert (row["item_id"], row["shown_at"].timestamp()) == ("b", T + 100)


def test_weights_are_cut_and_what_is_not_due_is_left_out() -> None:
    decisions = log(("early", "u", T, ["a", "b"]), ("late", "u", T + 25 * DAY_S, ["a", "b"]))
    found = made(decisions, events(), most=4.0)
    assert [row["weight"] for row in rows(found)] == [1.0, 4.0]
    assert found.not_due == 2
    with pytest.raises(OutcomeError, match="no item was shown"):
        made(log(("d", "u", T, ["a"]), decision="hold_out"), events())


def test_examination_is_of_drawn_items_and_falls_with_the_rank() -> None:
    """Items drawn at rank 2 are met twice as often as those at rank 4."""
    rng = np.random.default_rng(0)
    lists = [["a", "x"] if n % 2 else ["a", "b", "c", "x"] for n in range(4_000)]
    decisions = log(*((f"d{n}", f"u{n}", T, items) for n, items in enumerate(lists)))
    met = [n for n, items in enumerate(lists) if rng.random() < (0.4 if len(items) == 2 else 0.2)]
    happened = events(
        *({"user_id": f"u{n}", "item_id": "x", "unix_s": T + 5, "decision_id": f"d{n}"} for n in met),
        *({"user_id": f"u{n}", "item_id": "a", "unix_s": T + 5, "decision_id": f"d{n}"} for n in range(4_000)),
    )
    seen = {row["rank"]: row["examination"] for row in rows(made(decisions, happened))}
    assert seen[2] == 1.0
    assert seen[4] == pytest.approx(0.5, abs=0.08)
    assert np.isnan(seen[1]) if seen[1] is not None else True  # never drawn: its rate says how good its items are
    assert seen[3] is None or np.isnan(seen[3])


def test_the_file_names_its_schema(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "impressions.parquet"
    write(made(log(("d", "u", T, ["a", "b"])), events()), file)
    schema = pq.read_schema(file)
    assert schema.names == SCHEMA.names
    assert schema.metadata[b"longtail.impressions.schema_version"] == b"2"
    assert float(schema.metadata[b"longtail.impressions.window_days"]) == 7
    assert [path.name for path in file.parent.iterdir()] == ["impressions.parquet"]


def test_the_command_without_a_decision_says_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "impressions.parquet"
    result = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "impressions", "--out", str(out)])
    assert isinstance(result.exception, LongtailError)
    assert "there is no decision in" in str(result.exception)
    assert not out.exists()
