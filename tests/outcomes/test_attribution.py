"""Which outcome belongs to which shown item; what belongs to none is counted by reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from outcomes.attribution import DAY_S, Attribution, attribute, once_each
from outcomes.decisions import DECISION_COLUMNS, Decisions
from outcomes.errors import OutcomeError
from outcomes.logged_rounds import Target, rounds_of
from outcomes.off_policy import Support, evaluate

T = 1_000_000.0


def log(*decisions: tuple[str, str, float, list[str]], decision: str = "show") -> Decisions:
    """(decision_id, user_id, at, items); the last item of each list was drawn, with probability 0.1."""
    rows = [(name, at, user, decision, "", 1.0, "", "dormant", "push", "p@1") for name, user, at, _ in decisions]
    shown = [
        (name, item, rank, 0.1 if rank == len(items) else 1.0, rank == len(items))
        for name, _, _, items in decisions
        for rank, item in enumerate(items, start=1)
    ]
    return Decisions(
        decisions=pd.DataFrame(rows, columns=list(DECISION_COLUMNS)),
        shown=pd.DataFrame(shown, columns=["decision_id", "item_id", "rank", "propensity", "is_exploration"]),
        assignments=pd.DataFrame(columns=["decision_id", "experiment", "arm", "version"]),
    )


def events(*rows: dict[str, Any]) -> pd.DataFrame:
    base = {"user_id": "u", "item_id": "a", "event_type": "click", "unix_s": T, "surface": "", "decision_id": ""}
    columns = ["event_id", *base]
    return pd.DataFrame([base | {"event_id": f"e{n}"} | row for n, row in enumerate(rows)], columns=columns)


def judged(decisions: Decisions, happened: pd.DataFrame) -> Attribution:
    return attribute(decisions, happened, outcomes=frozenset({"click"}), window_days=7)


def outcomes(found: Attribution) -> dict[tuple[str, str], int]:
    rows = found.shown.itertuples()
    return {(str(row.decision_id), str(row.item_id)): int(str(row.outcomes)) for row in rows}


ONE = ("d", "u", T, ["a", "b"])


@pytest.mark.parametrize(
    ("happened", "reason"),
    [
        ({"unix_s": T + 5, "decision_id": "d"}, "attributed"),
        ({"unix_s": T + 5}, "attributed"),
        ({"unix_s": T + 5, "decision_id": "other"}, "unknown_decision"),
        ({"unix_s": T + 5, "decision_id": "d", "item_id": "z"}, "not_of_the_decision"),
        ({"unix_s": T + 5, "decision_id": "d", "user_id": "somebody"}, "not_of_the_decision"),
        ({"unix_s": T - 5, "decision_id": "d"}, "before_the_exposure"),
        ({"unix_s": T + 8 * DAY_S, "decision_id": "d"}, "after_the_window"),
        ({"unix_s": T - 5}, "without_a_showing"),
        ({"unix_s": T + 5, "user_id": "somebody"}, "without_a_showing"),
    ],
)
def test_an_outcome_is_attributed_or_counted_by_its_reason(happened: dict[str, Any], reason: str) -> None:
    found = judged(log(ONE), events(happened))
    assert {name: count for name, count in found.counts.items() if count} == {reason: 1}
    assert sum(outcomes(found).values()) == (reason == "attributed")


def test_the_window_opens_when_the_item_was_seen_and_what_was_not_seen_is_no_showing() -> None:
    seen = {"event_type": "exposure", "unix_s": T + 100, "decision_id": "d"}
    found = judged(log(ONE), events(seen, {"unix_s": T + 50, "decision_id": "d"}))
    assert found.counts["before_the_exposure"] == 1
    assert outcomes(found) == {("d", "a"): 0}
    assert outcomes(judged(log(ONE), events(seen, {"unix_s": T + 150}))) == {("d", "a"): 1}


def test_without_a_decision_the_latest_showing_has_it() -> None:
    decisions = log(ONE, ("later", "u", T + 60, ["a"]))
    found = judged(decisions, events({"unix_s": T + 70}))
    assert outcomes(found) == {("d", "a"): 0, ("d", "b"): 0, ("later", "a"): 1}


def test_what_was_held_out_was_not_shown() -> None:
    assert outcomes(judged(log(ONE, decision="hold_out"), events({"unix_s": T + 5}))) == {}


def test_duplicates_count_once_and_a_conflict_keeps_the_earliest() -> None:
    same, late = {"event_id": "e", "unix_s": T + 5}, {"event_id": "e", "unix_s": T + 9}
    clean = once_each(events(same, late, same))
    assert (len(clean.events), clean.duplicates, clean.conflicts) == (1, 1, 1)
    assert clean.events["unix_s"].tolist() == [T + 5]
    found = judged(log(ONE), events(same, late, same))
    assert (found.counts["attributed"], found.counts["duplicate_events"], found.counts["conflicting_events"]) == (
        1,
        1,
        1,
    )


def many(users: int, drawn: float = 0.5) -> tuple[Decisions, pd.DataFrame]:
    """One place: item `own`, or with probability `drawn` item `new`; own is clicked by 1 in 5, new by 2 in 5."""
    rng = np.random.default_rng(3)
    is_new = rng.random(users) < drawn
    clicked = rng.random(users) < np.where(is_new, 0.4, 0.2)
    decisions = log(*((f"d{n}", f"u{n}", T, ["new" if new else "own"]) for n, new in enumerate(is_new)))
    shown = decisions.shown.assign(propensity=0.5, is_exploration=is_new)
    rows = [{"user_id": f"u{n}", "item_id": decisions.shown["item_id"][n], "unix_s": T + 1} for n in range(users)]
    happened = events(*(row for row, did in zip(rows, clicked, strict=True) if did))
    return Decisions(decisions=decisions.decisions, shown=shown, assignments=decisions.assignments), happened


def test_the_greedy_policy_is_estimated_from_an_explored_log() -> None:
    found = evaluate(rounds_of(judged(*many(4000)).shown, Target.GREEDY)).estimates["SNIPS"]
    assert found.low is not None and found.high is not None and found.low < 0.2 < found.high < 0.26


def test_another_policy_is_given_as_a_table_of_its_probabilities() -> None:
    shown = judged(*many(4000)).shown
    table = shown[shown["item_id"] == "new"][["decision_id", "item_id", "rank"]].assign(probability=1.0)
    found = evaluate(rounds_of(shown, table)).estimates["SNIPS"]
    assert found.low is not None and found.high is not None and 0.34 < found.low < 0.4 < found.high
    with pytest.raises(OutcomeError, match="lacks probability"):
        rounds_of(shown, table.drop(columns="probability"))
    with pytest.raises(OutcomeError, match="names an item twice"):
        rounds_of(shown, pd.concat([table, table]))


def test_a_log_that_never_explored_supports_itself_and_nothing_else() -> None:
    shown = judged(*many(500, drawn=0.0)).shown.assign(propensity=1.0)
    assert evaluate(rounds_of(shown, Target.GREEDY)).mean_weight == 1
    other = shown[["decision_id", "item_id", "rank"]].assign(item_id="new", probability=1.0)
    with pytest.raises(OutcomeError, match="no support"):
        evaluate(rounds_of(shown, other), support=Support(least_effective_sample=0))
