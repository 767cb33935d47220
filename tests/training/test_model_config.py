"""The model server's file of versions and labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.errors import LongtailError
from serving.model_server.config_file import read
from training.release.model_config import ModelConfig


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    return ModelConfig(path=tmp_path / "models.config", model="longtail", base_path=tmp_path / "models")


def served(config: ModelConfig) -> tuple[tuple[int, ...], dict[str, int]]:
    """Versions to load and labels, as the model server reads them."""
    (one,) = (found for found in read(str(config.path)) if found.name == "longtail")
    available = {number: Path(f"{number}") for number in range(1, 10)}
    return tuple(sorted(one.policy(available))), dict(one.labels)


def test_a_canary_comes_beside_the_stable_version_and_takes_over(config: ModelConfig) -> None:
    assert config.labels() == {}
    config.with_label("stable", 1)
    assert served(config) == ((1,), {"stable": 1})
    config.with_version(2)
    assert served(config) == ((1, 2), {"stable": 1})
    config.with_label("canary", 2)
    assert served(config) == ((1, 2), {"stable": 1, "canary": 2})
    config.with_label("stable", 2)
    assert served(config) == ((2,), {"stable": 2})


def test_a_canary_is_withdrawn(config: ModelConfig) -> None:
    config.with_label("stable", 1)
    config.with_label("canary", 2)
    config.without_label("canary")
    assert served(config) == ((1,), {"stable": 1})
    with pytest.raises(LongtailError, match="no label 'canary'; it has stable"):
        config.without_label("canary")
    with pytest.raises(LongtailError, match="give it to another version"):
        config.without_label("stable")


def test_other_models_stay_as_they_are(config: ModelConfig) -> None:
    other = 'model_config_list { config { name: "other" base_path: "/m" model_platform: "tensorflow" } }'
    config.path.write_text(other)
    config.with_label("stable", 1)
    assert [one.name for one in read(str(config.path))] == ["other", "longtail"]


@pytest.mark.parametrize("text", ["model_config_list {", "custom_model_config {}", "\ufffd"])
def test_a_file_that_is_none_is_refused_and_stays(config: ModelConfig, text: str) -> None:
    config.path.write_text(text)
    with pytest.raises(LongtailError, match=r"models\.config"):
        config.with_label("stable", 1)
    assert config.path.read_text() == text
