"""A user who is forgotten is nowhere any more, and does not come back; the others stay as they are."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo import contract
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.log.importing import EventMapping, import_events, one_import
from feature_repo.online.loading import one_at_a_time
from feature_repo.online.materialize import check, materialize
from feature_repo.online.rows import online_of
from feature_repo.online.store import FeatureStoreError, apply, open_store
from feature_repo.privacy.erasers import Holder
from feature_repo.privacy.erasure import ErasureError, Proof, erase_user
from feature_repo.privacy.retention import prune
from feature_repo.stream.updates import open_worker
from feature_repo.tables.build import build, offline_file
from feature_repo.tabular import DataError, open_files, scratch_database
from tests.feature_repo.conftest import Installation
from tests.feature_repo.world import NOW, event

GONE = "gone-user"
LATER = NOW + timedelta(hours=1)
LOG = f"""who,what,at,kind
{GONE},i1,2026-02-01,view
stays,i1,2026-02-01,view
{GONE},i2,no time,view
stays,i2,no time,view
"""


def import_log(state: StateDir) -> dict[str, int]:
    file = state.root.parent / "log.csv"
    file.write_text(LOG)
    fields = EventMapping(columns={"user": "who", "item": "what", "time": "at", "type": "kind"})
    with scratch_database(state.events) as con:
        summary = import_events(state, con, open_files(con, str(file)), fields, source="shop", now=NOW)
    return {**summary.quarantined, "accepted": summary.accepted}


def set_up(installation: Installation) -> None:
    """The user is in everything that holds users."""
    state = installation.state
    import_log(state)
    EventLog(state.events).append([event("f1", user_id=GONE), event("f2", user_id="stays"), event("f3", user_id=GONE)])
    build(state, installation.settings, as_of=NOW)
    weights = {
        "user_id": pa.array([GONE, "stays"]),
        "event_timestamp": pa.array([NOW, NOW], pa.timestamp("us", "UTC")),
        "delta": pa.array([[0.5], [0.25]], pa.list_(pa.float32())),
        "model_version": pa.array([1, 1]),
    }
    pq.write_table(pa.table(weights), offline_file(state, contract.USER_WEIGHTS))
    apply(state, installation.settings)
    materialize(state, open_store(state, installation.settings))
    worker = open_worker(state, installation.settings)
    worker.step(now=NOW)
    worker.close()
    state.decisions.mkdir()
    lines = [json.dumps({"v": 1, "decision_id": str(n), "user_id": user}) for n, user in enumerate((GONE, "stays"))]
    (state.decisions / "20260301-1.jsonl").write_text("\n".join(lines) + "\n")


def forget(installation: Installation, user_id: str = GONE) -> Proof:
    return erase_user(installation.state, installation.settings, user_id, now=LATER)


def files_naming(state: StateDir, user_id: str) -> list[str]:
    """Whatever holds the id in the clear; Parquet is unpacked."""
    found = []
    for file in (file for file in state.root.rglob("*") if file.is_file()):
        data = str(pq.read_table(file).to_pylist()).encode() if file.suffix == ".parquet" else file.read_bytes()
        if user_id.encode() in data:
            found.append(str(file.relative_to(state.root)))
    return found


def test_nothing_names_the_user_any_more_and_the_others_stay(installation: Installation) -> None:
    set_up(installation)
    assert len(files_naming(installation.state, GONE)) >= 8
    others = EventLog(installation.state.events).read_after()[0]
    proof = forget(installation)
    assert files_naming(installation.state, GONE) == []
    store = open_store(installation.state, installation.settings)
    online = online_of(store)
    for view in contract.USER_VIEWS:
        assert online.read(view, [GONE]) == [None]
    (row,) = online.read(contract.USER_WEIGHTS, ["stays"])
    assert row is not None and row.values["delta"] == [0.25]
    assert [e.event_id for e in EventLog(installation.state.events).read_after()[0]] == ["f2"]
    assert len(others) == 3
    assert all(view.agrees for view in check(installation.state, store))
    counts = {(each.holder, each.part): each.count for each in proof.removed}
    assert counts["tables", "events/shop.parquet"] == 1
    assert counts["event log: feedback", "000000000001.jsonl"] == 2
    assert counts["decision log", "decisions"] == 1
    assert sum(count for (holder, _), count in counts.items() if holder == "quarantine") == 1
    written = json.loads(Path(proof.file).read_text())
    assert written["verified"] == dict.fromkeys(written["verified"], True)
    assert sum(each.count for each in forget(installation).removed) == 0


@pytest.mark.parametrize(
    ("gone", "column"),
    [
        ("0d1f9c1e-6a39-4b52-9a53-8a6f0f9f3a11", "'0d1f9c1e-6a39-4b52-9a53-8a6f0f9f3a11'::UUID"),
        ("123456789012", "123456789012::DOUBLE"),
        ("zoë", "encode('zoë')"),
    ],
)
def test_a_refused_row_is_found_whatever_its_columns_are(installation: Installation, gone: str, column: str) -> None:
    state, file = installation.state, installation.state.root.parent / "log.parquet"
    fields = EventMapping(columns={"user": "who", "item": "what", "time": "at"}, type_constant="view")
    with scratch_database(state.events) as con:
        rows = f"SELECT {column} AS who, 'i1' AS what, unnest(['2026-02-01', 'never']) AS at, '\\xFF'::BLOB AS payload"
        con.execute(f"COPY ({rows}) TO '{file}'")
        import_events(state, con, open_files(con, str(file)), fields, source="shop", now=NOW)
    removed = {each.holder: each.count for each in forget(installation, gone).removed if each.count}
    assert removed == {"tables": 1, "quarantine": 1}


def test_what_killed_processes_left_is_gone_too(installation: Installation) -> None:
    state = installation.state
    set_up(installation)
    segments = state.events / "segments"
    scratch = state.features / ".scratch-of-a-killed-build"
    scratch.mkdir()
    (scratch / ".held").touch()
    for file in (
        scratch / "spilled.tmp",
        state.features / ".user_activity.parquet.unfinished",
        state.events / ".shop.parquet.unfinished",
        segments / ".000000000001.jsonl.unfinished",
        state.decisions / ".20260301-1.draft",
    ):
        file.write_text(f"half of a file, with {GONE}")
    forget(installation)
    assert files_naming(state, GONE) == []


def test_the_user_does_not_come_back(installation: Installation) -> None:
    set_up(installation)
    forget(installation)
    log = EventLog(installation.state.events)
    late, new = event("f1", user_id=GONE), event("f9", user_id=GONE, event_time=LATER + timedelta(minutes=1))
    assert log.append([late]) == [False]
    assert import_log(installation.state) == {"bad_time": 1, "erased_user": 2, "accepted": 1}
    build(installation.state, installation.settings, as_of=LATER)
    store = open_store(installation.state, installation.settings)
    materialize(installation.state, store)
    assert online_of(store).read(contract.USER_ACTIVITY, [GONE]) == [None]
    assert files_naming(installation.state, GONE) == []
    assert log.append([new]) == [True]  # but a person may return


def test_a_reader_of_the_log_goes_on_where_it_was(installation: Installation) -> None:
    log = EventLog(installation.state.events)
    log.append([event("a", user_id=GONE), event("b")])
    _, position = log.read_after()
    log.append([event("c", user_id=GONE), event("d")])
    forget(installation)
    assert [e.event_id for e in log.read_after(position)[0]] == ["d"]


def test_a_user_of_whom_a_pruning_leaves_no_event_is_not_online_any_more(installation: Installation) -> None:
    state, settings = installation.state, installation.settings
    old, new = NOW - timedelta(days=20), NOW - timedelta(days=2)
    EventLog(state.events).append(
        [
            event("f1", user_id=GONE, event_time=old),
            event("f2", user_id="stays", event_time=old),
            event("f3", user_id="stays", event_time=new),
            event("f4", user_id="opted out", event_type="opt_out", event_time=old),
        ]
    )
    build(state, settings, as_of=NOW)
    apply(state, settings)
    store = open_store(state, settings)
    materialize(state, store)
    worker = open_worker(state, settings)
    worker.step(now=NOW)
    worker.close()
    assert sum(prune(state, settings, days=10, now=NOW).values()) == 3  # two events and a user
    build(state, settings, as_of=LATER)
    materialize(state, store)
    worker = open_worker(state, settings)
    worker.step(now=LATER)
    worker.close()
    for view in (contract.USER_BEHAVIOR, contract.USER_ACTIVITY, contract.USER_CONTACTS):
        gone, *others = online_of(store).read(view, [GONE, "stays", "opted out"])
        assert gone is None
        assert None not in others
    assert files_naming(state, GONE) == []


def test_while_a_materialization_is_at_work_it_is_refused(installation: Installation) -> None:
    with one_at_a_time(installation.state), pytest.raises(FeatureStoreError, match="another materialization"):
        forget(installation)


def test_beside_an_import_neither_an_erasure_nor_a_pruning_nor_another_import_works(installation: Installation) -> None:
    import_log(installation.state)
    with one_import(installation.state):
        for other in (
            lambda: forget(installation),
            lambda: prune(installation.state, installation.settings, days=1, now=NOW),
            lambda: import_log(installation.state),
        ):
            with pytest.raises(DataError, match="another import, pruning or erasure is at work"):
                other()
    assert import_log(installation.state)["accepted"] == 2


def test_a_place_that_cannot_be_reached_is_named_and_one_that_brings_the_user_back_too(
    installation: Installation,
) -> None:
    def away(_user_id: str) -> dict[str, int]:
        raise OSError("no route")

    with pytest.raises(ErasureError, match=r"mail system: no route.*run it again"):
        erase_user(
            installation.state, installation.settings, GONE, now=LATER, holders=[Holder(name="mail system", erase=away)]
        )
    with pytest.raises(ErasureError, match="came back while being erased"):
        leaky = Holder(name="leaky", erase=lambda _user_id: {"rows": 1})
        erase_user(installation.state, installation.settings, GONE, now=LATER, holders=[leaky])


@pytest.mark.parametrize("user_id", ["", "u" * 257])
def test_what_is_no_id_is_refused(installation: Installation, user_id: str) -> None:
    with pytest.raises(ErasureError, match="give 1 to 256"):
        forget(installation, user_id)
