"""What the model was told of users, as the decision log has it, is what the event log gives for the same moment."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.checks.skew_decisions import measure_decisions
from feature_repo.contract import MODEL_USER_FEATURES, USER_ACTIVITY
from feature_repo.decisions import finding, records
from feature_repo.decisions.segments import close_segments
from feature_repo.errors import LongtailError
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.settings import FeatureSettings
from feature_repo.tabular import DataError
from serving.gateway.decisions.record import encode
from serving.gateway.domain import Query, Ranking, UserId
from serving.gateway.features.feast_features import FeastFeatures
from serving.gateway.user import describe, feature_groups, model_user
from tests.feature_repo.conftest import Installation
from tests.feature_repo.test_features import drain
from tests.feature_repo.test_skew import LATER, overwrite, serve, visits
from tests.feature_repo.world import NOW, event
from tests.gateway.fakes import scored
from tests.gateway.test_decision_log import QUERY, ranking

SETTINGS = FeatureSettings()


def lines(store: Any, users: list[str], at: datetime) -> list[bytes]:
    """As the gateway logs an answer to each, from the rows that are there."""
    features, now = FeastFeatures(store), at.timestamp()

    async def one(user_id: str) -> bytes:
        query = Query(user_id=UserId(user_id))
        rows = await features.read(query.user_id, timeout_s=10)
        groups = feature_groups(rows, is_remembered=False, now_unix_s=now)
        user, activity = describe(query, groups, now_unix_s=now, lifecycle=SETTINGS.lifecycle)
        inputs = model_user(user, activity, groups, now_unix_s=now)
        answer = Ranking(
            decision_id=f"{user_id} {now}",
            at_unix_s=now,
            user=user,
            items=(),
            groups=groups,
            model=None,
            policy_version="p",
            experiments=(),
            dropped={},
            scored=scored([0.5]),
            unit="u",
            user_features=inputs.user_features,
        )
        return encode(query, answer)

    async def every() -> list[bytes]:
        return [await one(user_id) for user_id in users]

    found = asyncio.run(every())
    features.close()
    return found


def test_logged_inputs_are_the_logs_of_the_rows_moment_and_wrong_ones_are_found(tmp_path: Path) -> None:
    installation = Installation(state=StateDir(tmp_path), settings=SETTINGS)
    state, log = installation.state, visits(30, 60, seed=4)
    store = serve(installation, log)
    EventLog(state.events).append([event("click", user_id="u29", event_time=NOW + timedelta(minutes=1))])
    drain(installation, LATER)
    users = sorted({each.user_id for each in log})
    state.decisions.mkdir()
    segment = state.decisions / "20260301T120000-1.jsonl"
    segment.write_bytes(b"".join(lines(store, [*users, "stranger"], NOW + timedelta(days=1.3))))
    close_segments(state.decisions)
    found = measure_decisions(state, SETTINGS, count=1000)
    assert not found.skewed
    assert dict(found.left_out) == {"of users without a row yet": 1}
    assert {one.compared for one in found.features} == {len(users)}
    assert {one.feature for one in found.features} >= {*MODEL_USER_FEATURES, "state", "history_length"}
    assert any(one.feature == "visits_7d" for one in found.aged), "a day later some visits have left the week"
    overwrite(store, USER_ACTIVITY, "u7", visits_28d=20)
    (state.decisions / "20260302T120000-1.jsonl").write_bytes(b"".join(lines(store, ["u6", "u7"], NOW + timedelta(2))))
    done = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "features", "skew", "--decisions", "2"])
    assert done.exit_code == 1
    assert isinstance(done.exception, LongtailError)
    assert "differ in user_features.visits_28d" in str(done.exception)
    assert "of user u7." in str(done.exception)


def test_what_a_caller_brought_is_not_logged_as_the_stores() -> None:
    told = replace(ranking(), user_features=np.array([1.5, np.nan], np.float32))

    def logged(query: Query) -> list[float] | None:
        (row,) = records.decode([encode(query, told)], where=Path("line")).to_pylist()
        found: list[float] | None = row["user_features"]
        return found

    assert logged(QUERY) == [1.5, None]
    assert logged(replace(QUERY, history=())) is None
    assert logged(replace(QUERY, now_unix_s=0.0)) is None


def test_without_what_the_model_got_nothing_is_compared(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    with pytest.raises(DataError, match="there is no decision"):
        measure_decisions(state, SETTINGS, count=5)
    line = json.loads(Path("tests/gateway/decision_line_v1.jsonl").read_text())
    state.decisions.mkdir()
    (state.decisions / "1-1.jsonl").write_text(json.dumps(line) + "\n")
    found = measure_decisions(state, SETTINGS, count=5)
    assert dict(found.left_out) == {"without the model's input on record": 1}
    assert {one.compared for one in found.features} == {0}


def test_a_closed_segment_from_before_is_read_with_the_column_empty(tmp_path: Path) -> None:
    line = json.loads(Path("tests/gateway/decision_line_v1.jsonl").read_text())
    (tmp_path / "1-1.jsonl").write_text(json.dumps(line) + "\n")
    assert close_segments(tmp_path) == 1
    (closed,) = tmp_path.glob("*.parquet")
    pq.write_table(pq.read_table(closed).drop_columns(["user_features"]), closed)
    (row,) = records.read(tmp_path).to_pylist()
    assert row["user_features"] is None
    found = finding.find(tmp_path, line["decision_id"])
    assert found is not None
    assert found["items"] == row["items"]
    assert records.read(tmp_path, columns=["state"]).to_pylist() == [{"state": "dormant"}]
