"""The report's examples: rankings of users whom nobody picked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.training.conftest import Trained
from training.evaluation.assessment import MODEL, Assessment
from training.examples.split import Question
from training.fitting.runs import Run
from training.reports import examination
from training.reports.report_examples import examples_of


@pytest.fixture(scope="module")
def asked(trained: Trained) -> tuple[Question, Assessment]:
    return examination.evaluate(trained.run, trained.model)


def test_each_state_has_the_user_in_the_middle(trained: Trained, asked: tuple[Question, Assessment]) -> None:
    question, assessment = asked
    ndcg = assessment.answers[MODEL].per_user["ndcg"]
    examples = examples_of(trained.run, question, assessment)
    states = {name.removeprefix("state: "): users for name, users in assessment.slices.items() if "state: " in name}
    assert {one["state"] for one in examples} == {name for name, users in states.items() if users.any()}
    for one in examples:
        of_state = np.sort(ndcg[states[one["state"]]])
        assert one["ndcg"] == of_state[(len(of_state) - 1) // 2]


def test_what_was_met_is_ticked_and_no_user_is_named(trained: Trained, asked: tuple[Question, Assessment]) -> None:
    examples = examples_of(trained.run, *asked)
    for one in examples:
        hits = [item["was_met"] for item in one["lists"][MODEL]]
        assert len(hits) == 10
        assert (one["ndcg"] > 0) == any(hits)
        assert sum(hits) <= one["met"]
        assert len(one["newest"]) == min(one["behaviours"], 5)
    assert "user-" not in str(examples)


def test_items_have_their_titles(trained: Trained, asked: tuple[Question, Assessment], tmp_path: Path) -> None:
    catalogue = tmp_path / "items.parquet"
    pd.DataFrame(
        {"item_id": trained.run.log.item_ids, "title": [f"<b>{name}" for name in trained.run.log.item_ids]}
    ).to_parquet(catalogue)
    run = Run(reader=trained.run.reader, log=trained.run.log, settings=trained.run.settings, catalogue=catalogue)
    first, *_ = examples_of(run, *asked)
    assert all(item["item"].startswith("<b>item-") for item in first["lists"][MODEL])
