"""Ids that become keyed hashes at the border, and events that are kept no longer than allowed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import duckdb
import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.errors import LongtailError
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.log.importing import EventMapping, import_events
from feature_repo.log.pseudonyms import Pseudonyms, open_pseudonyms
from feature_repo.privacy.retention import prune
from feature_repo.settings import FeatureSettings
from feature_repo.tabular import literal, open_files, scratch_database
from tests.feature_repo.world import NOW, event

KEY = b"0123456789abcdef"
CON = duckdb.connect()
TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=80)


@given(TEXTS, st.binary(min_size=16, max_size=100))
def test_sql_and_the_gateway_give_one_pseudonym(user_id: str, key: bytes) -> None:
    pseudonyms = Pseudonyms(key)
    ((found,),) = CON.execute(f"SELECT {pseudonyms.expression(literal(user_id))}").fetchall()
    assert found == pseudonyms.of(user_id)
    assert found != Pseudonyms(key + b"x").of(user_id)


def test_an_import_keeps_no_id_that_it_was_given(tmp_path: Path) -> None:
    state, log = StateDir(tmp_path / "var"), tmp_path / "log.csv"
    log.write_text("who,what,at\nalice,i1,2026-02-01\nalice,i2,never\nbob,i1,2026-02-01,too,many\n")
    fields = EventMapping(columns={"user": "who", "item": "what", "time": "at"}, type_constant="view")
    with scratch_database(state.events) as con:
        relation, keyed = open_files(con, str(log)), Pseudonyms(KEY)
        summary = import_events(state, con, relation, fields, source="shop", now=NOW, pseudonyms=keyed)
    assert (summary.accepted, summary.quarantined) == (1, {"bad_time": 1, "malformed_line": 1})
    (row,) = EventLog(state.events).table(ibis.duckdb.connect()).to_pyarrow().to_pylist()
    assert row["user_id"] == Pseudonyms(KEY).of("alice")
    assert summary.quarantine_file is not None
    refused = pq.read_table(summary.quarantine_file).to_pylist()
    assert {each["who"] for each in refused} == {Pseudonyms(KEY).of("alice"), None}
    assert "bob" not in str(refused)


def test_a_refused_row_names_the_user_as_the_log_does(tmp_path: Path) -> None:
    state, log = StateDir(tmp_path / "var"), tmp_path / "log.parquet"
    pq.write_table(pa.table({"who": [17850.0] * 2, "what": ["i1", "i2"], "at": ["never", "2026-02-01"]}), log)
    fields = EventMapping(columns={"user": "who", "item": "what", "time": "at"}, type_constant="view")
    with scratch_database(state.events) as con:
        relation, keyed = open_files(con, str(log)), Pseudonyms(KEY)
        summary = import_events(state, con, relation, fields, source="shop", now=NOW, pseudonyms=keyed)
    assert summary.quarantine_file is not None
    (refused,) = pq.read_table(summary.quarantine_file).to_pylist()
    assert refused["who"] == Pseudonyms(KEY).of("17850")


def test_a_key_that_is_none_is_explained(tmp_path: Path) -> None:
    assert open_pseudonyms(None) is None
    (tmp_path / "key").write_text("short\n")
    with pytest.raises(LongtailError, match=r"has 5 bytes; give 16 or more"):
        open_pseudonyms(tmp_path / "key")
    with pytest.raises(LongtailError, match="cannot be read"):
        open_pseudonyms(tmp_path / "nowhere")


def test_events_are_kept_no_longer_than_allowed(tmp_path: Path) -> None:
    state, log = StateDir(tmp_path), EventLog(tmp_path / "events")
    log.append([event("old", event_time=NOW - timedelta(days=11)), event("new", event_time=NOW - timedelta(days=9))])
    log.table(ibis.duckdb.connect()).mutate(event_id=ibis._.event_id + "2").to_parquet(state.events / "shop.parquet")
    assert prune(state, FeatureSettings(), days=10, now=NOW) == {"shop.parquet": 1, "000000000001.jsonl": 1}
    left = log.table(ibis.duckdb.connect()).to_pyarrow()["event_id"].to_pylist()
    assert sorted(left) == ["new", "new2"]
    assert sum(prune(state, FeatureSettings(), days=10, now=NOW).values()) == 0
    with pytest.raises(LongtailError, match="retention_days is 0"):
        prune(state, FeatureSettings(), days=0, now=NOW)


def test_who_opted_out_stays_opted_out_however_long_ago(tmp_path: Path) -> None:
    state, log = StateDir(tmp_path), EventLog(tmp_path / "events")
    kinds = ("opt_out", "opt_in", "contact", "view")
    old = [event(kind, event_type=kind, surface="push", event_time=NOW - timedelta(days=400)) for kind in kinds]
    log.append(old)
    log.table(ibis.duckdb.connect()).mutate(event_id=ibis._.event_id + "2").to_parquet(state.events / "shop.parquet")
    assert prune(state, FeatureSettings(), days=10, now=NOW) == {"shop.parquet": 2, "000000000001.jsonl": 2}
    left = log.table(ibis.duckdb.connect()).to_pyarrow()["event_id"].to_pylist()
    assert sorted(left) == ["opt_in", "opt_in2", "opt_out", "opt_out2"]
