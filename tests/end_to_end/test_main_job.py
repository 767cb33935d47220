"""The main job as a new user runs it: every step a command, a real redis-server, real processes, the real wire."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest

from cli import up
from cli.settings import Settings
from feature_repo.contract import MODEL_USER_FEATURES
from longtail.activation.v1 import activation_pb2, activation_pb2_grpc, feedback_pb2, feedback_pb2_grpc
from serving.gateway.domain import ItemId, ModelUser
from serving.gateway.scoring.model_contract import Contracts
from serving.gateway.scoring.tfserving_scorer import TensorFlowServing
from tests.end_to_end.world import write_log
from tests.redis_server import redis_server

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A state directory with everything up to a materialized, published model."""

    state_dir: Path
    environ: dict[str, str]
    gateway: str
    import_says: str

    def longtail(self, *arguments: str, fails: bool = False) -> str:
        """Runs the command; gives what it printed."""
        command = [sys.executable, "-P", "-m", "cli.main", *arguments]
        done = subprocess.run(
            command, env=self.environ, capture_output=True, text=True, check=False, cwd=self.state_dir
        )
        assert (done.returncode != 0) == fails, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def versions(self) -> list[int]:
        """Those that are published, the newest last."""
        return sorted(int(path.name) for path in (self.state_dir / "models/longtail").iterdir())


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    directory = tmp_path_factory.mktemp("shop")
    gateway, model_server = _free_address(), _free_address()
    with redis_server(tmp_path_factory.mktemp("redis")) as redis_url:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("LONGTAIL_")} | {
            "LONGTAIL_STATE_DIR": str(directory),
            "LONGTAIL_FEATURES__ONLINE_STORE": "redis",
            "LONGTAIL_FEATURES__REDIS_URL": redis_url,
            "LONGTAIL_GATEWAY__ADDRESS": gateway,
            "LONGTAIL_GATEWAY__MODEL_SERVER": model_server,
            "LONGTAIL_GATEWAY__METRICS_ADDRESS": "",
            "LONGTAIL_GATEWAY__MODEL_VERSION_LABEL": "stable",
            "LONGTAIL_TRAINING__EMBEDDING_SIZE": "16",
            "LONGTAIL_TRAINING__MAX_EPOCHS": "2",
            "LONGTAIL_TRAINING__MODEL_CONFIG_FILE": str(directory / "models.config"),
        }
        new = Installation(state_dir=directory, environ=environ, gateway=gateway, import_says="")
        orders, products = write_log(directory, now=datetime.now(UTC))
        says = new.longtail(
            "data", "import", str(orders),
            "--map", "user=customer", "item=sku", "time=at", "type=action",
            "--items", str(products), "--map-items", "item=sku", "title=name", "category=kind",
        )  # fmt: skip
        for step in ("features build", "features apply", "train", "evaluate", "export", "publish"):
            new.longtail(*step.split())
        new.longtail("label", "stable", str(new.versions()[-1]), "--offline")
        new.longtail("features", "materialize")
        new.longtail("features", "check")
        yield Installation(state_dir=directory, environ=environ, gateway=gateway, import_says=says)


@pytest.fixture(scope="module")
def channel(installation: Installation) -> Iterator[grpc.Channel]:
    """A channel to the gateway of `longtail up`; stopping it must leave nothing running."""
    command = [sys.executable, "-P", "-m", "cli.main", "up"]
    log = (installation.state_dir / "up.log").open("w")
    process = subprocess.Popen(command, env=installation.environ, stdout=log, stderr=log, cwd=installation.state_dir)
    try:
        with grpc.insecure_channel(installation.gateway) as channel:
            grpc.channel_ready_future(channel).result(timeout=90)
            children = _children(process.pid)
            yield channel
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (installation.state_dir / "up.log").read_text()
        assert children
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        log.close()


@pytest.fixture(scope="module")
def activation(channel: grpc.Channel) -> activation_pb2_grpc.ActivationServiceStub:
    return activation_pb2_grpc.ActivationServiceStub(channel)


def rank(
    activation: activation_pb2_grpc.ActivationServiceStub, user_id: str, **fields: object
) -> activation_pb2.RankItemsResponse:
    request = activation_pb2.RankItemsRequest(user_id=user_id, **fields)  # type: ignore[arg-type]
    return activation.RankItems(request, timeout=5)


def test_rows_that_cannot_be_taken_are_counted_and_kept_aside(installation: Installation) -> None:
    assert "1502 rows = 1500 accepted + 2 quarantined" in installation.import_says
    assert list((installation.state_dir / "quarantine").glob("*.parquet"))


def test_a_ranking_uses_the_published_model_in_full(
    installation: Installation, activation: activation_pb2_grpc.ActivationServiceStub
) -> None:
    answer = rank(activation, "customer-1", explain=True)
    assert (answer.degraded, answer.decision) == (False, activation_pb2.DECISION_SHOW), answer
    assert [answer.model.version] == installation.versions()
    assert all(0 < item.score < 1 and item.reasons for item in answer.items)
    assert [item.rank for item in answer.items] == list(range(1, len(answer.items) + 1))


def test_a_dormant_user_is_known_and_ranked(activation: activation_pb2_grpc.ActivationServiceStub) -> None:
    answer = rank(activation, "customer-0")
    assert answer.user_state.state == activation_pb2.LIFECYCLE_DORMANT
    assert answer.user_state.history_length == 25
    assert answer.items


def test_a_user_of_another_taste_gets_another_ranking(activation: activation_pb2_grpc.ActivationServiceStub) -> None:
    everything = [f"sku-{taste}-{item}" for taste in range(3) for item in range(12)]
    scores = {}
    for user in ("nobody-a", "nobody-b"):
        liked = "sku-0-" if user == "nobody-a" else "sku-2-"
        history = [activation_pb2.Behavior(item_id=f"{liked}{item}", event_type="purchase") for item in range(4)]
        for behavior in history:
            behavior.event_time.GetCurrentTime()
        answer = rank(activation, user, history=history, candidate_item_ids=everything, limit=36)
        scores[user] = {item.item_id: item.score for item in answer.items}
    shared = scores["nobody-a"].keys() & scores["nobody-b"].keys()
    assert len(shared) == 36 - 8
    assert any(abs(scores["nobody-a"][item] - scores["nobody-b"][item]) > 1e-3 for item in shared)


def test_an_unknown_user_is_new_and_says_so(activation: activation_pb2_grpc.ActivationServiceStub) -> None:
    answer = rank(activation, "a stranger")
    assert answer.user_state.state == activation_pb2.LIFECYCLE_NEW
    missing = activation_pb2.FeatureStatus.STATUS_MISSING
    assert {status.status for status in answer.feature_status} == {missing}
    assert answer.items and not answer.degraded


def test_a_recorded_click_changes_the_next_ranking(
    channel: grpc.Channel, activation: activation_pb2_grpc.ActivationServiceStub
) -> None:
    user = "newcomer"  # of a fixed name, which the global holdout leaves alone
    before = rank(activation, user)
    clicked = before.items[0].item_id
    event = feedback_pb2.Event(event_id=uuid.uuid4().hex, user_id=user, item_id=clicked, event_type="click")
    feedback = feedback_pb2_grpc.FeedbackServiceStub(channel)
    acks = [feedback.RecordEvents(feedback_pb2.RecordEventsRequest(events=[event]), timeout=5).acks[0] for _ in "ab"]
    assert acks[0].status == feedback_pb2.EventAck.STATUS_ACCEPTED
    assert acks[1].status == feedback_pb2.EventAck.STATUS_DUPLICATE
    after = _until(lambda: rank(activation, user), lambda answer: answer.user_state.history_length == 1)
    assert clicked not in [item.item_id for item in after.items]
    assert {dropped.reason: dropped.count for dropped in after.dropped}["seen"] >= 1
    scores = {item.item_id: item.score for item in before.items}
    assert any(item.score != scores.get(item.item_id, item.score) for item in after.items)


def test_weights_of_another_version_count_for_nothing_over_the_wire(
    installation: Installation, channel: grpc.Channel
) -> None:
    assert channel
    models = installation.state_dir / "models" / "longtail"
    version = installation.versions()[-1]

    async def scores() -> list[list[float]]:
        contracts = Contracts(path=None, models=models)
        address = installation.environ["LONGTAIL_GATEWAY__MODEL_SERVER"]
        scorer = TensorFlowServing(address, model_name="longtail", label="", contracts=contracts)
        size = contracts.of(version).embedding_size + 1
        history = ModelUser(
            history_item_ids=("sku-0-1",),
            history_event_types=("click",),
            history_age_s=np.array([60.0], np.float32),
            user_features=np.full(len(MODEL_USER_FEATURES), np.nan, np.float32),
            user_weights=np.zeros(size, np.float32),
            user_weights_version=version,
        )
        own = np.random.default_rng(0).normal(size=size).astype(np.float32)
        users = (
            history,
            replace(history, user_weights=own),
            replace(history, user_weights=own, user_weights_version=version - 1),
            replace(history, user_weights=np.full(size, np.nan, np.float32), user_weights_version=version + 1),
        )
        items = [ItemId("sku-0-7"), ItemId("sku-2-7")]
        try:
            return [(await scorer.score(user, items, timeout_s=10)).values.tolist() for user in users]
        finally:
            await scorer.close()

    none, own, stale, of_the_next = asyncio.run(scores())
    assert own != pytest.approx(none, abs=1e-3)
    assert stale == pytest.approx(none, abs=1e-6)
    assert of_the_next == pytest.approx(none, abs=1e-6)


def test_a_person_gets_the_same_from_the_command_line(installation: Installation, channel: grpc.Channel) -> None:
    assert channel
    assert "sku-" in installation.longtail("rank", "--user", "customer-1", "--explain")
    assert "SERVING" in installation.longtail("status")


def test_the_build_takes_what_was_recorded(installation: Installation, channel: grpc.Channel) -> None:
    assert channel
    installation.longtail("record", "--user", "customer-2", "--item", "sku-1-1", "--type", "click")
    says = installation.longtail("features", "build")
    assert "user_behavior: 61 rows" in says or "user_behavior: 62 rows" in says, says


def test_a_retraining_puts_a_canary_beside_the_stable_version_which_then_takes_over(
    installation: Installation, activation: activation_pb2_grpc.ActivationServiceStub
) -> None:
    config = installation.state_dir / "models.config"
    before = installation.versions()
    assert "nothing to do" in installation.longtail("retrain", "--min-events", "100000")
    says = installation.longtail("retrain", "--min-events", "1", "--label", "canary")
    assert "engagements since" in says
    *old, new = installation.versions()
    assert old == before
    assert f"canary is {new}" in says
    assert rank(activation, "customer-1").model.version == old[-1]
    installation.longtail("label", "stable", str(new))
    after = _until(lambda: rank(activation, "customer-1"), lambda answer: answer.model.version == new)
    assert not after.degraded
    assert "canary" not in config.read_text()


def _until(
    ask: Callable[[], activation_pb2.RankItemsResponse],
    good: Callable[[activation_pb2.RankItemsResponse], bool],
    *,
    within_s: float = 60.0,
) -> activation_pb2.RankItemsResponse:
    """The first good answer: what is recorded becomes visible soon, not at once."""
    end_s = time.monotonic() + within_s
    while not good(answer := ask()):
        assert time.monotonic() < end_s, answer
        time.sleep(0.05)
    return answer


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "models" / "longtail" / "1").mkdir(parents=True)
    return Settings(state_dir=tmp_path)


def one_part(does: str) -> Callable[[Settings], tuple[up.Part, ...]]:
    part = up.Part(name="gateway", command=(sys.executable, "-c", does), environ={}, target="127.0.0.1:1", says="ready")
    return lambda _settings: (part,)


def test_a_part_of_up_that_ends_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "parts", one_part("print('ready')"))
    with pytest.raises(up.PartError, match="gateway ended with exit code 0"):  # noqa: SIM117
        with up.running(settings, log=sys.stderr) as processes:
            up.watch(processes, threading.Event())


def test_up_can_be_stopped_while_a_part_starts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "parts", one_part("import time; time.sleep(600)"))
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with up.running(settings, log=sys.stderr, stop=stop) as processes:
        assert processes["gateway"].poll() is None
    assert processes["gateway"].poll() is not None
