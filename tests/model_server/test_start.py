"""Starting and stopping the command: flags, ports, exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.model_server.config import ModelConfig
from serving.model_server.errors import StartError
from serving.model_server.flags import Flags, channel_arguments, parse
from serving.model_server.server import ServerOptions, serve
from serving.model_server.startup import server_options
from tests.model_server.conftest import LOAD, QUICK, serving
from tests.model_server.fakes import FakeServable

COMMAND = [sys.executable, "-c", "from cli.main import main; main()", "model-server"]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def options(base_path: Path, *, port: int = 0, rest_port: int | None = None) -> ServerOptions:
    models = (ModelConfig(name="m", base_path=base_path),)
    return ServerOptions(models=models, port=port, rest_port=rest_port, lifecycle=QUICK)


@pytest.mark.parametrize("flag", ["--port", "--rest_api_port"])
async def test_a_port_in_use_is_told_with_its_flag(base_path: Path, taken_port: int, flag: str) -> None:
    ports = {"port": taken_port} if flag == "--port" else {"rest_port": taken_port}
    with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{taken_port} .*{flag}=N"):
        await serve(options(base_path, **ports), LOAD, stop=asyncio.Event())


async def test_a_port_taken_while_loading_is_told(base_path: Path) -> None:
    (base_path / "1").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    taken: list[socket.socket] = []

    def load(_: Path) -> FakeServable:
        taken.append(socket.create_server(("127.0.0.1", port), reuse_port=True))  # as a second gRPC server would
        return FakeServable()

    with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{port}"):
        await serve(options(base_path, port=port), load, stop=asyncio.Event())
    taken[0].close()


def test_a_base_path_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(StartError, match="model is a file; give the directory"):
        server_options(Flags(model_base_path=str(tmp_path / "model")), tmp_path)


async def test_one_port_cannot_be_both(base_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(StartError, match="cannot be same as --port"):
        await serve(options(base_path, port=port, rest_port=port), LOAD, stop=asyncio.Event())


async def test_the_port_opens_only_when_the_model_is_available(base_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stop, opened = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(
        serve(options(base_path, port=port), lambda _: FakeServable(), stop=stop, started=lambda _: opened.set())
    )
    await asyncio.sleep(0.1)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    (base_path / "1").mkdir()
    await asyncio.wait_for(opened.wait(), 20)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    stop.set()
    await task


async def test_a_first_version_that_does_not_load_stops_the_start(base_path: Path) -> None:
    (base_path / "1").mkdir()
    with pytest.raises(
        StartError,
        match=r"UNKNOWN: 1 servable\(s\) did not become available: {{{name: m version: 1} due to error: NOT_FOUND: .*",
    ):
        async with serving(base_path):
            pass


async def test_waiting_for_a_model_can_be_stopped(base_path: Path) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(serve(options(base_path), LOAD, stop=stop))
    await asyncio.sleep(0.05)
    stop.set()
    await asyncio.wait_for(task, 20)


def test_flags_are_taken_as_the_real_server_takes_them() -> None:
    flags, warnings = parse(
        ["--port=1", "--rest_api_port", "0", "--enable_batching", "--enable_model_warmup=false", "--model_name="]
    )
    assert flags == Flags(port=1, rest_api_port=0, enable_batching=True, enable_model_warmup=False)
    assert warnings == []


def test_a_flag_without_effect_is_told() -> None:
    assert parse(["--rest_api_num_threads", "4", "--use_tflite_model=false"]) == (
        Flags(rest_api_num_threads=4),
        ["--rest_api_num_threads is accepted and has no effect: requests share the event loop"],
    )


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--use_tflite_model", "--use_tflite_model is a flag of tensorflow_model_server that the embedded server does"),
        ("--model_nam=x", "unknown argument: --model_nam=x; did you mean --model_name?"),
        ("--zzz", "unknown argument: --zzz; see --help"),
        ("stray", "unknown argument: stray; every argument is a flag: --name=value"),
        ("--port=x", "Couldn't interpret value x for flag port: it takes a whole number"),
        ("--enable_batching=x", "Couldn't interpret value x for flag enable_batching: write true or false"),
        ("--micro_batch_max_size=0", "Couldn't interpret value 0 for flag micro_batch_max_size: the least is 1"),
    ],
)
def test_a_wrong_flag_is_told(argument: str, said: str) -> None:
    with pytest.raises(StartError) as caught:
        parse([argument])
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("flags", "name"),
    [(Flags(), "longtail"), (Flags(model_base_path="/m"), "default"), (Flags(model_name="n"), "n")],
)
def test_a_model_without_a_name_has_the_real_servers_or_ours(flags: Flags, name: str) -> None:
    (model,) = server_options(flags, Path("ours")).models
    assert (model.name, model.base_path) == (name, Path("/m" if flags.model_base_path else "ours").absolute())


def test_batching_parameters_need_batching() -> None:
    with pytest.raises(StartError, match="batching_parameters_file is set without setting"):
        server_options(Flags(batching_parameters_file="f"), Path())


def test_channel_arguments_are_numbers_or_texts() -> None:
    assert channel_arguments("grpc.max_connection_age_ms=2000,grpc.x=y") == [
        ("grpc.max_connection_age_ms", 2000),
        ("grpc.x", "y"),
    ]


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_a_port_in_use_exits_255(base_path: Path, taken_port: int) -> None:
    done = run_command(f"--port={taken_port}", "--rest_api_port", "0", "--model_base_path", str(base_path))
    assert done.returncode == 255
    assert f"error: Failed to start server. Error: cannot listen on 127.0.0.1:{taken_port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_config_file_exits_255(tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text("improperly formatted file")
    done = run_command(f"--model_config_file={tmp_path / 'models.config'}")
    assert done.returncode == 255
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig: 1:" in done.stderr
    assert f"INVALID_ARGUMENT: Invalid protobuf file: '{tmp_path / 'models.config'}'" in done.stderr


def test_the_versions_are_said() -> None:
    done = run_command("--version")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("TensorFlow ModelServer: ")
    assert done.stdout.splitlines()[1].startswith("TensorFlow Library: 2.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_0(publish: Callable[..., Path], number: signal.Signals) -> None:
    base_path = publish(1).parent
    flags = ["--port=0", "--rest_api_port=0", "--model_name=m", f"--model_base_path={base_path}"]
    with subprocess.Popen([*COMMAND, *flags], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "running gRPC ModelServer" in line:
                os.kill(process.pid, number)
        assert process.wait(timeout=60) == 0
    log = "".join(lines)
    assert "model available model=m version=1" in log
    assert "oneDNN" not in log
    assert lines[-1].endswith("stopped models=m\n")
