"""The search for settings: finds what is better, stays where nothing is, goes on after a kill, counts honestly."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.errors import LongtailError
from feature_repo.events import Event
from feature_repo.log.event_log import EventLog
from tests.training.conftest import START, run_on, write_log
from tests.training.test_gate import report
from training import workflow
from training.examples.split import split
from training.fitting import config_file
from training.fitting.fitting import DivergedError
from training.fitting.progress import Epoch, Progress
from training.fitting.runs import Run
from training.fitting.tuning import Found, Score, Search, tune
from training.fitting.tuning_space import DEFAULTS, FIXED, Choice, Range, default_space, read_space
from training.release.gate import judge
from training.release.model_card import model_card
from training.settings import TrainingSettings

SPACE = {
    "learning_rate": Range(low=1e-4, high=1e-1, log=True),
    "num_blocks": Range(low=0, high=4),
    "encoder": Choice(choices=("attention", "transformer", "bert")),
}


def search(folder: Path, **given: object) -> Search:
    return Search(**{"settings": TrainingSettings(), "space": SPACE, "folder": folder, "log": "one", **given})  # type: ignore[arg-type]


def hill(settings: TrainingSettings, progress: Progress) -> float:
    """Highest for `bert` of three blocks at a rate of 0.01; each epoch is a little better than the last."""
    height = 1 - abs(math.log10(settings.learning_rate) + 2) / 2 - abs(settings.num_blocks - 3) / 4
    height = 0.1 * max(0.0, height) + (0.05 if settings.encoder == "bert" else 0.0)
    for epoch in range(1, 4):
        progress.on_epoch(Epoch(epoch=epoch, loss=1.0, validation_ndcg=height * (0.7 + 0.1 * epoch)))
    return height


def plain(settings: TrainingSettings, progress: Progress) -> float:
    progress.on_epoch(Epoch(epoch=1, loss=1.0, validation_ndcg=0.1))
    return 0.1


def tried(found: Found) -> list[tuple[object, ...]]:
    return [(trial.outcome, trial.score, *trial.varied.values()) for trial in found.trials]


def test_it_finds_better_settings_where_there_are_some(tmp_path: Path) -> None:
    before = hill(TrainingSettings(), Progress())
    found = tune(search(tmp_path), hill, trials=20)
    assert found.best.score is not None
    assert found.best.score > 1.5 * before
    assert found.settings.encoder == "bert"
    assert hill(found.settings, Progress()) == pytest.approx(found.best.score)


def test_it_stays_with_the_settings_where_none_are_better(tmp_path: Path) -> None:
    found = tune(search(tmp_path), plain, trials=8)
    assert len({trial.varied["learning_rate"] for trial in found.trials}) > 4
    assert found.settings == TrainingSettings(configurations_tried=8)


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_what_is_behind_is_given_up_and_never_the_best(tmp_path: Path, pruner: str) -> None:
    found = tune(search(tmp_path, pruner=pruner), hill, trials=14)
    given_up = [trial for trial in found.trials if trial.outcome == "given up"]
    assert given_up
    assert all(1 <= trial.epochs <= 3 for trial in given_up)
    assert found.best.outcome == "finished"


def test_without_a_pruner_each_trial_is_finished(tmp_path: Path) -> None:
    found = tune(search(tmp_path, pruner="none"), hill, trials=8)
    assert {trial.outcome for trial in found.trials} == {"finished"}


def test_an_interrupted_search_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = tune(search(tmp_path / "whole"), hill, trials=12)
    calls = 0

    def killed(settings: TrainingSettings, progress: Progress) -> float:
        nonlocal calls
        calls += 1
        if calls == 11:
            progress.on_epoch(Epoch(epoch=1, loss=1.0, validation_ndcg=0.9))
            raise KeyboardInterrupt
        return hill(settings, progress)

    with pytest.raises(KeyboardInterrupt):
        tune(search(tmp_path / "parts"), killed, trials=12)
    resumed = tune(search(tmp_path / "parts"), hill, trials=12)
    assert tried(resumed) == tried(whole)
    assert resumed.settings.configurations_tried == 12
    again = tune(search(tmp_path / "parts"), _never, trials=12)
    assert again.settings == resumed.settings


def _never(settings: TrainingSettings, progress: Progress) -> float:
    raise AssertionError("all were tried before")


def test_another_seed_tries_others(tmp_path: Path) -> None:
    one, other = (tune(search(tmp_path, seed=seed), plain, trials=4) for seed in (1, 2))
    assert tried(one)[0] == tried(other)[0]  # the settings as they are
    assert not set(tried(one)[1:]) & set(tried(other)[1:])


def test_settings_that_diverge_are_passed_over_and_any_other_failure_ends_the_search(tmp_path: Path) -> None:
    def fragile(settings: TrainingSettings, progress: Progress) -> float:
        if settings.learning_rate > 2e-3:
            raise DivergedError("the loss is no longer a finite number")
        return hill(settings, progress)

    found = tune(search(tmp_path), fragile, trials=12)
    outcomes = {trial.outcome: trial for trial in found.trials}
    assert {"finished", "diverged"} <= set(outcomes)
    assert outcomes["diverged"].score is None
    assert found.settings.learning_rate <= 2e-3
    assert found.settings.configurations_tried == 12

    def broken(settings: TrainingSettings, progress: Progress) -> float:
        raise LongtailError("the log has 1 user")

    with pytest.raises(LongtailError, match="the log has 1 user"):
        tune(search(tmp_path / "broken"), broken, trials=12)


def _diverges(settings: TrainingSettings, progress: Progress) -> float:
    raise DivergedError("the loss is no longer a finite number")


def test_a_search_without_any_result_says_so(tmp_path: Path) -> None:
    with pytest.raises(LongtailError, match="no configuration of 3 tried was finished"):
        tune(search(tmp_path), _diverges, trials=3)


def test_no_trial_begins_after_the_timeout(tmp_path: Path) -> None:
    now_s = 100.0

    def slow(settings: TrainingSettings, progress: Progress) -> float:
        nonlocal now_s
        now_s += 7.0
        return 0.1

    found = tune(search(tmp_path), slow, trials=50, timeout_s=20, clock_s=lambda: now_s)
    assert len(found.trials) == 3


def test_all_that_was_compared_on_a_log_counts(tmp_path: Path) -> None:
    def count(score: Score = plain, **given: object) -> int:
        return tune(search(tmp_path, **given), score, trials=3).settings.configurations_tried

    assert count() == 3
    assert count(space={"dropout": Range(low=0.0, high=0.5)}) == 6  # another search on the same log
    assert count(log="another") == 3
    assert count(log="a third", settings=TrainingSettings(configurations_tried=40)) == 42  # they were chosen of 40


def test_the_count_is_on_the_model_card() -> None:
    described = report({}) | {"configurations_tried": 42}
    verdict = judge(described, candidate=described["version"], incumbent=None, errors=2.0)
    contract = {"model_name": "longtail", "git_revision": "x", "training_window": described["training_window"]}
    card = model_card(described, contract, verdict, override=None)
    assert "before these settings were chosen: 42" in card


def test_two_searches_at_once_are_refused(tmp_path: Path) -> None:
    def nested(settings: TrainingSettings, progress: Progress) -> float:
        tune(search(tmp_path), plain, trials=1)
        return 0.0

    with pytest.raises(LongtailError, match="another tuning is at work"):
        tune(search(tmp_path), nested, trials=1)


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.sqlite").write_text("no database at all, but long enough to be looked at" * 40)
    with pytest.raises(LongtailError, match=r"study\.sqlite is no record"):
        tune(search(tmp_path), plain, trials=1)


def test_without_optuna_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "training.fitting.tuning")
    with pytest.raises(LongtailError, match=r"pip install 'longtail\[tune\]'"):
        importlib.import_module("training.fitting.tuning")


@pytest.mark.parametrize("encoder", sorted(DEFAULTS))
def test_every_default_setting_is_in_its_space_and_every_corner_can_be_trained(encoder: str) -> None:
    settings = TrainingSettings.model_validate({"encoder": encoder})
    space = default_space(settings)
    assert not set(space) & FIXED
    for name, dimension in space.items():
        assert dimension.has(getattr(settings, name)), name
        for value in dimension.bounds():
            TrainingSettings.model_validate({"encoder": encoder, name: value})
    widths, heads = (space.get(name) for name in ("embedding_size", "num_heads"))
    for width in widths.bounds() if widths else ():
        for number in heads.bounds() if heads else (settings.num_heads,):
            assert width % number == 0


def read(tmp_path: Path, text: str) -> object:
    path = tmp_path / "space.toml"
    path.write_text(text)
    return read_space(path, TrainingSettings())


def test_a_space_of_ones_own_is_read(tmp_path: Path) -> None:
    text = "dropout = { low = 0, high = 0.5 }\nloss = { choices = ['softmax', 'gbce'] }"
    assert read(tmp_path, text) == {
        "dropout": Range(low=0, high=0.5),
        "loss": Choice(choices=("softmax", "gbce")),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dropuot = { low = 0, high = 0.5 }", r"dropuot cannot be varied; these can: batch_rows"),
        ("seed = { low = 0, high = 9 }", r"seed cannot be varied"),
        ("test_from = { low = 0.5, high = 0.9 }", r"test_from cannot be varied"),
        ("configurations_tried = { low = 1, high = 9 }", r"cannot be varied"),
        ("dropout = { low = 0, high = 1.5 }", r"dropout = 1\.5: .*less than 1"),
        ("dropout = { low = 0.5, high = 0.1 }", r"low must be below high"),
        ("dropout = { low = 0, high = 0.1, log = true }", r"must begin above 0"),
        ("dropout = { low = 0 }", r"high Field required"),
        ("dropout = { choices = [0.1] }", r"at least 2"),
        ("dropout = 0.3", r"dropout = 0\.3: .*write `dropout = \{ low"),
        ("num_blocks = { low = 0.5, high = 3 }", r"num_blocks = 0\.5"),
        ("loss = { low = 0, high = 1 }", r"loss is no number"),
        ("loss = { choices = ['softmax', 'hinge'] }", r"loss = 'hinge'"),
        ("", r"names no setting"),
        ("dropout = {", r"cannot be read as TOML"),
    ],
)
def test_a_wrong_space_is_refused_with_what_is_allowed(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(LongtailError, match=told):
        read(tmp_path, text)


def _with_another_test(directory: Path, run: Run) -> Path:
    """The log with every event of the test window about one and the same item."""
    log, cut_us = run.log, split(run.log, "temporal", run.settings).test.cut_us
    events = []
    for index in range(len(log)):
        time_us = int(log.time_us[index])
        item = log.item_ids[log.item[index]] if time_us < cut_us else log.item_ids[0]
        events.append(
            Event(
                event_id=str(index),
                user_id=str(log.user_ids[log.user[index]]),
                item_id=str(item),
                event_type="view",
                event_time=START.fromtimestamp(time_us / 1e6, START.tzinfo),
            )
        )
    EventLog(directory).append(events)
    return directory


def test_the_command_looks_at_no_test_writes_a_file_for_train_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGTAIL_TRAINING__TENSORBOARD_DIR", str(tmp_path / "boards"))
    write_log(tmp_path / "events", 0.95)
    config, space, out = tmp_path / "small.toml", tmp_path / "space.toml", tmp_path / "deep" / "tuned.toml"
    given = "encoder = 'attention'\nembedding_size = 16\nnum_heads = 2\nmax_epochs = 1\n"
    given += "num_blocks = 0\nmoments_per_user = 4\nmissing_values = { mean_gap_days = 'median' }"
    config.write_text(given)
    space.write_text("dropout = { low = 0.0, high = 0.5 }")

    def invoke(*words: str) -> str:
        files = ["--config", str(config), "--space", str(space), "--out", str(out)]
        result = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "tune", *files, *words], catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    first = invoke("--trials", "1")
    assert f"next: `longtail train --config {out}`" in first
    assert "finished" not in invoke("--trials", "1")  # it was tried before
    settings = config_file.with_file(TrainingSettings(), out)
    assert settings == config_file.with_file(TrainingSettings(), config)
    run = run_on(tmp_path / "events", settings)
    other = run_on(_with_another_test(tmp_path / "changed", run), settings)
    score = workflow.validation_score(other, tmp_path, progress=Progress())
    assert f"trial 1 finished: validation NDCG@10 {score:.4f}" in first
    assert score > 0
    (board,) = (tmp_path / "boards").iterdir()
    assert board.name.startswith("tune-")
    assert list(board.iterdir())
