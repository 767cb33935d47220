"""The compose file's overlay with TLS and tokens, checked without an engine."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from cli import settings
from tests.deploy.test_compose import COMPOSE, ROOT

OVERLAY: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.tls.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = OVERLAY["services"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_what_it_sets_exists_and_every_file_is_a_secret_that_the_service_has(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**COMPOSE["services"][name]["environment"], **SERVICES[name]["environment"]}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    loaded = settings.load()
    if name == "gateway":
        assert loaded.gateway.tls.is_on
        assert loaded.gateway.authorization.is_on
    else:
        assert loaded.client.ca_file is not None
    given = {f"/run/secrets/{secret}" for secret in SERVICES[name]["secrets"]}
    named = set(SERVICES[name]["environment"].values())
    named |= {
        word for word in SERVICES[name].get("healthcheck", {}).get("test", []) if word.startswith("/run/secrets/")
    }
    assert named == given


def test_secrets_are_files_that_git_does_not_take() -> None:
    used = {secret for service in SERVICES.values() for secret in service["secrets"]}
    assert used == set(OVERLAY["secrets"])
    assert all(secret["file"].startswith("./secrets/") for secret in OVERLAY["secrets"].values())
    assert "secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_health_check_is_the_same_but_for_the_authority() -> None:
    plain = COMPOSE["services"]["gateway"]["healthcheck"]["test"]
    assert SERVICES["gateway"]["healthcheck"]["test"][: len(plain)] == plain
