"""Settings: an unknown or wrong one refuses to start and says which it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli import settings, settings_page
from cli.main import main
from feature_repo.errors import LongtailError


def test_an_unknown_variable_is_named_with_what_was_meant() -> None:
    with pytest.raises(LongtailError, match=r"LONGTAIL_GATEWAY__ADRESS.*did you mean LONGTAIL_GATEWAY__ADDRESS"):
        settings.load(environ={"LONGTAIL_GATEWAY__ADRESS": "x"})


def test_an_unknown_key_of_the_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "longtail.toml").write_text("[gateway]\nadress = 'x'\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LongtailError, match=r"gateway\.adress.*did you mean"):
        settings.load()


def test_a_wrong_value_is_shown_with_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_FEATURES__ONLINE_STORE", "cassandra")
    with pytest.raises(LongtailError, match=r"features\.online_store = 'cassandra'.*'sqlite' or 'redis'"):
        settings.load()


def test_a_broken_file_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "longtail.toml").write_text("[gateway\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LongtailError, match=r"not valid TOML"):
        settings.load()


def test_a_file_that_is_no_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("LONGTAIL_CONFIG", str(tmp_path / "mine.toml"))
    with pytest.raises(LongtailError, match=r"mine\.toml is not valid TOML"):
        settings.load()


def test_a_variable_that_should_be_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_CONSOLE__HOSTS", "console.example.com")
    with pytest.raises(LongtailError, match=r"LONGTAIL_CONSOLE__HOSTS is not JSON"):
        settings.load()


def test_a_secret_of_a_wrong_type_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "longtail.toml").write_text("[client]\ntoken = 4711\n[gateway.authorization]\njwt_secret = ['4711']\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LongtailError, match=r"client\.token.*should be a valid string") as refused:
        settings.load()
    assert "4711" not in str(refused.value)


def test_a_state_directory_that_is_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("")
    monkeypatch.setattr(sys, "argv", ["longtail", "--state-dir", str(tmp_path / "state"), "features", "build"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.strip().startswith(f"error: cannot use {tmp_path / 'state'}")


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "longtail.toml").write_text("[gateway]\naddress = '127.0.0.1:1'\nmodel_name = 'from_file'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAIL_GATEWAY__ADDRESS", "127.0.0.1:2")
    gateway = settings.load().gateway
    assert (gateway.address, gateway.model_name) == ("127.0.0.1:2", "from_file")


def test_a_weight_of_a_new_event_type_is_no_unknown_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_FEATURES__EVENT_WEIGHTS__WISH", "2.5")
    features = settings.load().features
    assert features.weight("wish") == 2.5
    assert features.weight("return") < 0


def test_a_strategy_for_missing_values_is_set_by_the_features_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "longtail.toml").write_text("[training.missing_values]\nvisits_7d = 'median'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGTAIL_TRAINING__MISSING_VALUES__MEAN_GAP_DAYS", "constant(3)")
    assert settings.load().training.missing_values == {"mean_gap_days": "constant(3)", "visits_7d": "median"}
    monkeypatch.setenv("LONGTAIL_TRAINING__MISSING_VALUES__MEAN_GAP_DAYS", "mode")
    with pytest.raises(LongtailError, match=r"training\.missing_values.*'mode'.*allowed is keep, mean"):
        settings.load()
    monkeypatch.setenv("LONGTAIL_TRAINING__MISSING_VALUES__AGE", "mean")
    with pytest.raises(LongtailError, match=r"no user feature 'age'; there are log_events"):
        settings.load()


def test_the_command_exits_1_for_a_wrong_setting_and_2_for_wrong_usage(tmp_path: Path) -> None:
    def exit_code(*arguments: str, **environ: str) -> tuple[int, str]:
        command = [sys.executable, "-P", "-m", "cli.main", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False, cwd=tmp_path)
        return done.returncode, done.stderr

    code, message = exit_code("data", "fetch", "ml-100k", LONGTAIL_STATEDIR="x")
    assert (code, "LONGTAIL_STATEDIR" in message) == (1, True)
    assert exit_code("no-such-command")[0] == 2


def test_the_settings_page_is_what_the_settings_say() -> None:
    assert settings_page.PAGE.read_text() == settings_page.page(), "run `python -m cli.settings_page`"


def test_each_setting_is_explained() -> None:
    rows = [line for line in settings_page.page().splitlines() if line.startswith("| `")]
    assert not [row for row in rows if row.endswith("|  |")]
