"""What listens where, and how it answers: REST beside its API, metrics, a UNIX socket, TLS, health, reload."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from longtail.tfserving import message_class
from serving.model_server.flags import Flags
from serving.model_server.lifecycle import State
from serving.model_server.rest import RestOptions
from serving.model_server.startup import server_options
from tests.gateway.certificates import Authority
from tests.model_server.conftest import (
    MODEL_SERVICE,
    Client,
    error_of,
    predict_request,
    serving,
)
from tests.model_server.fakes import FakeServable

Publish = Callable[..., Path]
RELOAD = "HandleReloadConfigRequest"


async def fetch(client: Client, method: str, path: str, body: str | None = None) -> tuple[int, dict[str, str], str]:
    def ask() -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", client.running.rest_port or 0, timeout=20)
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read().decode()

    return await asyncio.to_thread(ask)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS"])
async def test_other_http_methods_are_malformed(publish: Publish, method: str) -> None:
    async with serving(publish(1).parent, rest_port=0) as client:
        status, headers, text = await fetch(client, method, "/v1/models/m")
        assert (status, headers["content-type"]) == (400, "application/json")
        assert f"Malformed request: {method} /v1/models/m" in text


async def test_what_is_not_the_api_is_not_found(publish: Publish) -> None:
    async with serving(publish(1).parent, rest_port=0) as client:
        for path in ("/", "/v2/models/m", "/monitoring/prometheus/metrics"):
            assert (await fetch(client, "GET", path))[0] == 404


async def test_cors_headers_come_where_they_are_asked_for(publish: Publish) -> None:
    async with serving(publish(1).parent, rest_port=0, rest=RestOptions(allows_cors=True)) as client:
        for method in ("OPTIONS", "GET"):
            status, headers, _ = await fetch(client, method, "/v1/models/m")
            assert (status, headers["access-control-allow-origin"]) == (200, "*")


async def test_a_model_name_may_be_encoded_and_case_does_not_matter(publish: Publish) -> None:
    async with serving(publish(1).parent, rest_port=0) as client:
        assert (await fetch(client, "GET", "/V1/Models/%6d/Versions/1"))[0] == 200
        status, _, text = await fetch(client, "POST", "/v1/models/m:PREDICT", '{"instances": [0.4, 1e8, 0.123456789]}')
        assert (status, "".join(text.split())) == (
            200,
            '{"predictions":[{"n":0,"y":2.2},{"n":100000000,"y":5e+07},{"n":0,"y":2.06172848}]}',
        )


async def test_a_rest_call_that_takes_too_long_is_a_gateway_timeout(base_path: Path) -> None:
    (base_path / "1").mkdir()
    servable = FakeServable()
    servable.may_run.clear()
    options = RestOptions(timeout_s=0.05)
    async with serving(base_path, load=lambda _: servable, rest_port=0, rest=options) as client:
        status, _, text = await fetch(client, "POST", "/v1/models/m:predict", '{"instances": [1.0]}')
        servable.may_run.set()
    assert (status, "Timed out waiting for notification" in text) == (504, True)


async def test_metrics_stand_on_the_rest_port(publish: Publish) -> None:
    options = RestOptions(metrics_path="/monitoring/prometheus/metrics")
    async with serving(publish(1).parent, rest_port=0, rest=options) as client:
        await client.y([1.0])
        await fetch(client, "POST", "/v1/models/m:predict", "{")
        status, headers, text = await fetch(client, "GET", "/monitoring/prometheus/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 1\n' in text
    assert ':tensorflow:serving:request_count{model_name="m",status="INVALID_ARGUMENT"} 1\n' in text
    assert 'request_latency_count{model_name="m",API="Predict",entrypoint="GRPC"} 1\n' in text


def test_the_monitoring_file_says_whether_and_where(tmp_path: Path) -> None:
    def path_of(text: str) -> str | None:
        (tmp_path / "monitoring.config").write_text(text)
        flags = Flags(monitoring_config_file=str(tmp_path / "monitoring.config"))
        return server_options(flags, tmp_path).rest.metrics_path

    assert path_of('prometheus_config { enable: true path: "/m" }') == "/m"
    assert path_of("prometheus_config { enable: true }") == "/monitoring/prometheus/metrics"
    assert path_of("") is None


async def test_a_unix_socket_answers_too(publish: Publish, tmp_path: Path) -> None:
    async with serving(publish(1).parent, socket_path=str(tmp_path / "s")) as client:
        async with grpc.aio.insecure_channel(f"unix:{tmp_path / 's'}") as channel:
            assert await Client(channel, client.running).y([2.0]) == [3.0]
        assert await client.y([2.0]) == [3.0]


async def test_tls_is_what_the_ssl_file_says(publish: Publish, tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.issue("localhost")
    quoted = [pem.decode().replace("\n", "\\n") for pem in (pair.key, pair.certificate)]
    (tmp_path / "ssl.config").write_text(f'server_key: "{quoted[0]}" server_cert: "{quoted[1]}"')
    options = server_options(Flags(ssl_config_file=str(tmp_path / "ssl.config")), tmp_path)
    async with serving(publish(1).parent, credentials=options.credentials) as client:
        async with grpc.aio.secure_channel(f"localhost:{client.running.port}", authority.client()) as channel:
            assert await Client(channel, client.running).y([2.0]) == [3.0]
        code, _ = await error_of(client.y([2.0]))  # without TLS
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_health_can_be_off(publish: Publish) -> None:
    async with serving(publish(1).parent, has_health=False) as client:
        check = health_pb2_grpc.HealthStub(client.channel).Check(health_pb2.HealthCheckRequest())
        assert (await error_of(check))[0] is grpc.StatusCode.UNIMPLEMENTED


def reload_request(*models: tuple[str, Path, dict[str, int]]) -> Any:
    request = message_class("tensorflow.serving.ReloadConfigRequest")()
    for name, base_path, labels in models:
        config = request.config.model_config_list.config.add(
            name=name, base_path=str(base_path), model_platform="tensorflow", version_labels=labels
        )
        config.model_version_policy.all.SetInParent()
    return request


async def test_a_reload_replaces_the_models(publish: Publish, model_of_examples: Path) -> None:
    base_path = publish(1).parent
    async with serving(base_path) as client:
        response = await client.call(
            MODEL_SERVICE, RELOAD, reload_request(("m", base_path, {"stable": 1}), ("n", model_of_examples, {}))
        )
        assert (response.status.error_code, response.status.error_message) == (0, "")
        assert await client.y([2.0], name="n") == [3.0]  # AVAILABLE when the call returned
        request = predict_request({"x": [2.0]})
        request.model_spec.version_label = "stable"
        answer = await client.predict(request)
        assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (1, "serving_default")

        await client.call(MODEL_SERVICE, RELOAD, reload_request(("n", model_of_examples, {})))
        assert await error_of(client.y([2.0])) == (
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Latest(m)",
        )
        await client.reaches(1, State.END)


async def test_a_reload_that_is_refused_changes_nothing(publish: Publish) -> None:
    base_path = publish(1).parent
    async with serving(base_path) as client:
        refused = reload_request(("m", base_path, {"stable": 9}))
        assert await error_of(client.call(MODEL_SERVICE, RELOAD, refused)) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "Request to assign label to version 9 of model m, which is not currently available for inference",
        )
        twice = reload_request(("m", base_path, {}), ("m", base_path, {}))
        assert await error_of(client.call(MODEL_SERVICE, RELOAD, twice)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "Illegal to list model m multiple times in config list",
        )
        empty = message_class("tensorflow.serving.ReloadConfigRequest")()
        code, text = await error_of(client.call(MODEL_SERVICE, RELOAD, empty))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text.startswith("ServerModelConfig type not supported by HandleReloadConfigRequest.")
        assert await client.y([2.0]) == [3.0]
