"""The real process, from settings to exit code; and what it must never import."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from feature_repo.layout import StateDir
from feature_repo.log.event_log import EventLog
from feature_repo.online import store
from feature_repo.settings import FeatureSettings
from loadtest.processes import free_address
from tests.gateway.certificates import Authority
from tests.gateway.tiny_model_server import TinyModel, contract, serving

STARTUP_S = 60.0
RESIDENT_MB = 400.0

CHECK_IMPORTS = """
import sys
import serving.gateway.serve, cli.gateway
wrong = [name for name in sys.modules if name.partition(".")[0] in ("tensorflow", "keras", "tensorflow_serving")]
sys.exit(f"imported: {wrong[:3]}" if wrong else 0)
"""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> StateDir:
    """An applied store, and three items."""
    state = StateDir(tmp_path_factory.mktemp("state"))
    store.apply(state, FeatureSettings())
    make_items(state)
    return state


def make_items(state: StateDir) -> None:
    state.features.mkdir()
    ids = ["a", "b", "c"]
    table = pa.table(
        {
            "item_id": ids,
            "title": ids,
            "novelty_bits": pa.array([1.0, 2.0, 3.0], pa.float32()),
            "popularity_percentile": pa.array([0.9, 0.5, 0.1], pa.float32()),
            "first_seen_unix_s": pa.array([1, 2, 3], pa.int64()),
            "withdrawn": [False, False, False],
            "category": pa.array(["c"] * 3, pa.string()),
            "exposures": pa.array([0] * 3, pa.int64()),
            "engagement_rate": pa.array([None] * 3, pa.float32()),
            "event_timestamp": pa.array([0, 0, 0], pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, state.features / "item_stats.parquet")


def environ(state: StateDir, **settings: str) -> dict[str, str]:
    ours = {
        "LONGTAIL_STATE_DIR": str(state.root),
        "LONGTAIL_GATEWAY__ADDRESS": "127.0.0.1:0",
        "LONGTAIL_GATEWAY__METRICS_ADDRESS": "",
        "LONGTAIL_GATEWAY__MODEL_SERVER": "127.0.0.1:1",
        **{f"LONGTAIL_GATEWAY__{name.upper()}": value for name, value in settings.items()},
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LONGTAIL_")}
    return {**kept, **ours}


def longtail(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=STARTUP_S, check=False)


@contextmanager
def running(env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yields the process and its address once it says that it is ready."""
    command = [sys.executable, "-m", "cli.main", "gateway"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "ready at" in line
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.wait()


def test_the_gateway_never_imports_tensorflow() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK_IMPORTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_serves_learns_and_drains(state: StateDir) -> None:
    metrics = free_address()
    env = environ(state, metrics_address=metrics)
    with running(env) as (process, address):
        ranked = longtail("rank", "--user", "u", "--items", "a,b,c", "--explain", "--address", address, env=env)
        assert ranked.returncode == 0, ranked.stderr
        assert "new for 0.0 days" in ranked.stdout
        assert "degraded: model: unavailable" in ranked.stdout

        recorded = longtail("record", "--user", "u", "--item", "a", "--type", "click", "--address", address, env=env)
        assert recorded.returncode == 0, recorded.stderr
        assert "accepted" in recorded.stdout
        for _ in range(100):
            told = longtail("status", "--user", "u", "--address", address, "--metrics", metrics, env=env)
            if "1 behaviours known" in told.stdout:
                break
            time.sleep(0.05)
        assert "1 behaviours known" in told.stdout
        assert "SERVING" in told.stdout
        assert "workers 1 of 1 ready" in told.stdout

        ranked = longtail("rank", "--user", "u", "--items", "a,b,c", "--address", address, env=env)
        assert "1 seen" in ranked.stdout
        for more in (("opt_out",), ("contact", "--surface", "push", "--decision", "d1")):
            recorded = longtail("record", "--user", "u", "--type", *more, "--address", address, env=env)
            assert recorded.returncode == 0, recorded.stderr
        log = EventLog(state.events).table(ibis.duckdb.connect())
        columns = ["event_type", "item_id", "surface", "decision_id"]
        assert sorted(map(tuple, log.select(columns).execute().fillna("").values.tolist())) == [
            ("click", "a", "command_line", ""),
            ("contact", "", "push", "d1"),
            ("opt_out", "", "", ""),
        ]
        refused = longtail("rank", "--user", "u", "-n", "0", "--address", address, env=env)
        assert refused.returncode == 1
        assert "limit: is 0; 1 to 200 are allowed" in refused.stderr

        taken = longtail("gateway", env=environ(state, address=address))
        assert taken.returncode == 1
        assert f"cannot listen on {address}" in taken.stderr
        assert "Traceback" not in taken.stderr
        resident_mb = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        assert resident_mb < RESIDENT_MB
        assert "tensorflow" not in Path(f"/proc/{process.pid}/maps").read_text()

        process.send_signal(signal.SIGTERM)
        assert process.wait(STARTUP_S) == 0
    lines = [json.loads(line) for file in state.decisions.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert {line["user_id"] for line in lines} == {"u", "longtail-status"}


def test_people_and_the_load_test_reach_it_over_tls_with_a_token(state: StateDir, tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    env = environ(state)
    made = longtail("token", "--caller", "shop", "--scope", "rank", env=env)
    (tmp_path / "tokens.toml").write_text(made.stdout)
    (tmp_path / "token").write_text(made.stderr)
    env = environ(
        state,
        **{f"tls__{name}": path for name, path in authority.issue().write(tmp_path).items()},
        authorization__tokens_file=str(tmp_path / "tokens.toml"),
    )
    with running(env) as (_, address):
        trust = ("--address", address, "--ca", str(tmp_path / "ca.pem"))
        token = ("--token-file", str(tmp_path / "token"))
        assert longtail("status", *trust, *token, env=env).returncode == 0
        plain = longtail("rank", "--user", "u", "--address", address, env=env)
        assert "--ca where it speaks TLS" in plain.stderr
        nobody = longtail("rank", "--user", "u", *trust, env=env)
        assert "UNAUTHENTICATED: the call has no token" in nobody.stderr
        record = longtail("record", "--user", "u", "--item", "i", "--type", "click", *trust, *token, env=env)
        assert "PERMISSION_DENIED: RecordEvents needs scope record, and token 'shop' has rank" in record.stderr
        out = tmp_path / "report"
        loaded = longtail(
            "loadtest", "--profile", "smoke", "--rate", "20", "--duration", "1", "--warmup", "0", "--out", str(out),
            *trust, *token, env=env,
        )  # fmt: skip
        assert "errors:" not in loaded.stdout, loaded.stdout
        assert made.stderr.strip() not in (out / "plan.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--cert", "c.pem"), "--cert and --key"),
        (("--token-file", "/no/such/token"), "/no/such/token cannot be read"),
        (("--address", "192.0.2.1:1"), "in the clear"),
    ],
)
def test_half_a_pair_a_missing_file_and_a_token_in_the_clear_are_told(arguments: tuple[str, ...], told: str) -> None:
    done = CliRunner(env={"LONGTAIL_CLIENT__TOKEN": "lt_secret"}).invoke(app, ["status", *arguments])
    assert told in str(done.exception)
    assert "lt_secret" not in str(done.exception)


def test_a_client_without_a_gateway_is_told_what_to_start(state: StateDir) -> None:
    for command in (("rank", "--user", "u"), ("record", "--user", "u", "--item", "i", "--type", "click"), ("status",)):
        done = longtail(*command, "--address", "127.0.0.1:1", env=environ(state))
        assert done.returncode == 1
        assert "no gateway answers at 127.0.0.1:1" in done.stderr


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"policy_path": "/no/such/policy.toml"}, "the policy /no/such/policy.toml cannot be read"),
        ({"contract_path": "/no/such/contract.json"}, "/no/such/contract.json is no contract"),
        ({"permits": "0"}, "gateway.permits"),
        ({"permitz": "1"}, "unknown setting LONGTAIL_GATEWAY__PERMITZ; did you mean LONGTAIL_GATEWAY__PERMITS"),
        ({"address": "127.0.0.1"}, "give HOST:PORT"),
        ({"address": "0.0.0.0:0"}, "would be served without TLS; set gateway.tls.cert_file"),
        ({"metrics_address": "0.0.0.0:0"}, "are served without TLS; set an address on 127.0.0.1"),
        ({"metrics_address": "9464"}, "setting gateway.metrics_address = '9464': Value error, give HOST:PORT"),
        ({"authorization__tokens_file": "/no/such/tokens.toml"}, "/no/such/tokens.toml cannot be read"),
    ],
)
def test_a_wrong_setting_refuses_to_start(state: StateDir, settings: dict[str, str], told: str) -> None:
    done = longtail("gateway", env=environ(state, **settings))
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_metrics_port_in_use_is_told(state: StateDir) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = longtail("gateway", env=environ(state, metrics_address=address))
    assert done.returncode == 1
    assert f"cannot serve metrics on {address}" in done.stderr


def test_without_a_feature_store_it_says_what_to_run(tmp_path: Path) -> None:
    done = longtail("gateway", env=environ(StateDir(tmp_path)))
    assert done.returncode == 1
    assert "longtail features apply" in done.stderr


async def test_a_model_of_another_contract_refuses_to_start(state: StateDir, tmp_path: Path) -> None:
    import asyncio

    path = tmp_path / "contract.json"
    path.write_text(json.dumps(contract()))
    model = TinyModel()
    model.signatures["retrieve"]["outputs"]["item_ids"]["dtype"] = "DT_INT64"
    async with serving(model) as address:
        env = environ(state, model_server=address, contract_path=str(path), model_name="tiny")
        done = await asyncio.to_thread(longtail, "gateway", env=env)
    assert done.returncode == 1
    assert "retrieve output 'item_ids' is DT_STRING[-1, 3] in the contract, DT_INT64[-1, 3] as served" in done.stderr
