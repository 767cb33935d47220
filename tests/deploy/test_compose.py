"""The compose file, checked without an engine: what it sets exists, what it starts can be waited for."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cli import settings
from cli.main import app
from feature_repo.errors import LongtailError

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {name for name, service in SERVICES.items() if service.get("restart") == "no"}
BUILT = {name for name, service in SERVICES.items() if "build" in service}


def with_defaults(text: str) -> str:
    """The text as compose reads it where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_the_services_are_the_parts_of_the_product() -> None:
    assert set(SERVICES) == {
        "gateway",
        "grafana",
        "jobs",
        "loadtest",
        "materialize",
        "model-server-cpu",
        "model-server-gpu",
        "prometheus",
        "redis",
        "train",
    }


def test_a_misspelt_setting_would_be_noticed() -> None:
    with pytest.raises(LongtailError, match="LONGTAIL_GATEWAY__ADRESS"):
        settings.load(environ={"LONGTAIL_GATEWAY__ADRESS": "0.0.0.0:50051"})


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> settings.Settings:
    for key in [key for key in os.environ if key.startswith("LONGTAIL_")]:
        monkeypatch.delenv(key)
    for key, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(key, value)
    return settings.load()  # refuses an unknown name and a value that is not allowed


@pytest.mark.parametrize("name", sorted(BUILT))
def test_every_setting_of_a_service_exists_and_is_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(key.startswith("LONGTAIL_") for key in SERVICES[name]["environment"])
    loaded(name, monkeypatch)


def test_the_gateway_listens_to_its_network_and_finds_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded_settings = loaded("gateway", monkeypatch)
    gateway = loaded_settings.gateway
    assert gateway.address == "0.0.0.0:50051"
    assert gateway.metrics_address == "0.0.0.0:9464"
    assert gateway.model_server == "model-server:8500"
    assert loaded_settings.features.online_store == "redis"
    assert loaded_settings.features.redis_url.startswith("redis://redis:")
    for name in ("model-server-cpu", "model-server-gpu"):
        assert SERVICES[name]["networks"]["default"]["aliases"] == ["model-server"]
        model = SERVICES[name]["environment"]
        assert model["MODEL_NAME"] == gateway.model_name
        assert f"{model['MODEL_BASE_PATH']}/{model['MODEL_NAME']}" == str(loaded_settings.state.models)


def test_all_parts_share_one_state(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BUILT:
        assert str(loaded(name, monkeypatch).state_dir) == "/state"
        assert any(volume.startswith("state:/state") for volume in SERVICES[name]["volumes"])


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_has_a_health_check_or_ends_by_itself(name: str) -> None:
    assert ("healthcheck" in SERVICES[name]) != (name in ONE_SHOT)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_waits_for_what_can_be_waited_for(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
        assert how["condition"] == wanted, needed
        if SERVICES[needed].get("profiles") not in (None, SERVICES[name].get("profiles")):
            assert how["required"] is False, f"{needed} may not be started"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_image_is_pinned_to_a_version(name: str) -> None:
    image = with_defaults(SERVICES[name]["image"])
    _, _, tag = image.partition(":")
    assert re.search(r"\d+\.\d+\.\d+", tag), image
    assert "latest" not in tag


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_gets_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_the_gpu_is_reserved_for_the_gpu_profile_only() -> None:
    devices = SERVICES["model-server-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert with_defaults(SERVICES["model-server-gpu"]["image"]).endswith("-gpu")
    assert "deploy" not in SERVICES["model-server-cpu"]
    assert (SERVICES["model-server-gpu"]["profiles"], SERVICES["model-server-cpu"]["profiles"]) == (["gpu"], ["cpu"])


def test_every_volume_and_mounted_file_exists() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], name


def test_prometheus_scrapes_services_at_the_ports_and_paths_they_have() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    gateway_metrics = SERVICES["gateway"]["environment"]["LONGTAIL_GATEWAY__METRICS_ADDRESS"]
    assert jobs["gateway"]["static_configs"][0]["targets"] == [f"gateway:{gateway_metrics.rpartition(':')[2]}"]
    assert jobs["model-server"]["static_configs"][0]["targets"] == ["model-server:8501"]
    monitoring = (ROOT / "deploy/tfserving/monitoring.config").read_text()
    assert f'path: "{jobs["model-server"]["metrics_path"]}"' in monitoring
    for path in config["rule_files"]:
        assert yaml.safe_load((ROOT / "deploy/prometheus" / Path(path).name).read_text())["groups"]


def commands() -> list[str]:
    lines = [" ".join(["longtail", *SERVICES["gateway"]["command"]])]
    for name in ("materialize", "train"):
        lines += [line.strip() for line in SERVICES[name]["command"][0].split("&&")]
    return sorted(set(lines))


@pytest.mark.parametrize("command", commands())
def test_every_command_a_service_runs_exists(command: str) -> None:
    longtail, *words = command.split()
    assert longtail == "longtail"
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0, done.output


def test_the_load_test_is_given_options_it_has() -> None:
    options = [with_defaults(option) for option in SERVICES["loadtest"]["command"]]
    help_text = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["loadtest", "--help"]).output
    for option in options:
        assert option.partition("=")[0] in help_text


def test_an_address_in_the_load_test_is_the_gateways() -> None:
    port = SERVICES["gateway"]["environment"]["LONGTAIL_GATEWAY__ADDRESS"].rpartition(":")[2]
    assert f"--address=gateway:{port}" in SERVICES["loadtest"]["command"]
