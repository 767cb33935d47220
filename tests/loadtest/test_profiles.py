"""Profiles are data, and checked; load goes to this machine unless another is allowed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import profiles
from loadtest.errors import LoadTestError
from loadtest.plan import check_address
from loadtest.profiles import RequestMix


@pytest.mark.parametrize("name", sorted(tomllib.loads(profiles.SHIPPED.read_text())))
def test_a_shipped_profile_is_valid_and_writes_nothing(name: str) -> None:
    profile = profiles.load(name)
    assert profile.requests.record_events == 0
    assert profile.duration_s > profile.warmup_s


def test_the_profiles_named_in_the_help_are_shipped() -> None:
    assert set(tomllib.loads(profiles.SHIPPED.read_text())) == {"smoke", "default", "stress"}


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LoadTestError, match=r"no profile 'smok'.*default, smoke, stress"):
        profiles.load("smok")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"rate_per_s": 0}, "rate_per_s"),
        ({"rate_per_s": float("nan")}, "rate_per_s"),
        ({"callers": 100_000}, "callers"),
        ({"duration_s": 1e9}, "duration_s"),
        ({"duration_s": 1}, "leaves nothing"),
        ({"typo": 1}, "typo"),
        ({"users": {"head": 0, "tail": 0, "unseen": 0}}, "all weights are 0"),
        ({"slo": {"p99_ms": 100, "error_rate": 2, "degraded_share": 0}}, "slo.error_rate"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused_by_field(overrides: dict[str, object], told: str) -> None:
    with pytest.raises(LoadTestError, match=told):
        profiles.load("smoke", overrides=overrides)


def test_a_profile_file_that_is_not_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profiles.toml"
    for content in (None, b"= 1", b"\xff"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(LoadTestError, match="cannot read profiles"):
            profiles.load("smoke", path)


@given(st.floats(0.001, 0.9))
def test_the_record_share_is_a_share_of_all_requests(share: float) -> None:
    weights = RequestMix().with_record_share(share).weights()
    assert weights["record_events"] / sum(weights.values()) == pytest.approx(share)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_an_impossible_record_share_is_refused(share: float) -> None:
    with pytest.raises(LoadTestError, match="less than 1"):
        RequestMix().with_record_share(share)


@pytest.mark.parametrize("address", ["127.0.0.1:50051", "localhost:1", "[::1]:65535", "127.8.9.1:80"])
def test_an_address_of_this_machine_is_taken(address: str) -> None:
    assert check_address(address, allow_remote=False) == address


@pytest.mark.parametrize("address", ["10.0.0.1:50051", "gateway:50051", "0.0.0.0:50051", "localhost.example:1"])
def test_another_machine_is_loaded_only_when_allowed(address: str) -> None:
    with pytest.raises(LoadTestError, match="--allow-remote"):
        check_address(address, allow_remote=False)
    assert check_address(address, allow_remote=True) == address


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", ":50051", "localhost:http", "localhost:65536"])
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(LoadTestError, match="HOST:PORT"):
        check_address(address, allow_remote=True)
