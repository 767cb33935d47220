"""TensorFlow Serving's own published client works unchanged against the command, started with the real flags."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

CLIENT = Path(__file__).with_name("published_client.py")
COMMAND = [sys.executable, "-c", "from cli.main import main; main()", "model-server"]


@contextlib.contextmanager
def command(*flags: str) -> Iterator[dict[str, str]]:
    """The running command; the addresses its log names, by what they are for."""
    with subprocess.Popen([*COMMAND, *flags], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            addresses: dict[str, str] = {}
            for line in process.stderr:
                if match := re.search(r"(HTTP/REST|gRPC).* address=(?:http://)?(\S+)", line):
                    addresses[match[1]] = match[2]
                if "gRPC" in addresses:
                    break
            assert "gRPC" in addresses, "the server ended before it was ready"
            yield addresses
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0


def test_the_published_stubs_and_the_real_flags_work(tmp_path: Path, model_of_examples: Path) -> None:
    (tmp_path / "models.config").write_text(f"""
        model_config_list: {{
          config: {{
            name: "examples", base_path: "{model_of_examples}", model_platform: "tensorflow"
            model_version_policy {{ specific {{ versions: 123 }} }}
            version_labels {{ key: "stable" value: 123 }}
          }},
          config: {{ name: "twin", base_path: "{model_of_examples}", model_platform: "tensorflow" }}
        }}""")
    (tmp_path / "monitoring.config").write_text('prometheus_config: { enable: true, path: "/metrics" }')
    (tmp_path / "batching.config").write_text(
        "max_batch_size { value: 128 } batch_timeout_micros { value: 0 } num_batch_threads { value: 2 }"
    )
    flags = [
        "--port=0",
        f"--rest_api_port={free_port()}",
        "--rest_api_timeout_in_ms=5000",
        f"--grpc_socket_path={tmp_path / 'socket'}",
        f"--model_config_file={tmp_path / 'models.config'}",
        f"--monitoring_config_file={tmp_path / 'monitoring.config'}",
        "--allow_version_labels_for_unavailable_models",
        "--enable_model_warmup",
        "--num_load_threads=2",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=20000,grpc.lb_policy_name=grpclb",
        "--enable_batching",
        f"--batching_parameters_file={tmp_path / 'batching.config'}",
    ]
    with command(*flags) as addresses:
        words = [sys.executable, str(CLIENT), addresses["gRPC"], str(tmp_path / "socket"), str(model_of_examples)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert done.stdout == "ok\n", done.stderr
        with urllib.request.urlopen(f"http://{addresses['HTTP/REST']}/metrics", timeout=20) as response:
            page = response.read().decode()
        assert ':tensorflow:serving:request_count{model_name="examples",status="OK"}' in page


def free_port() -> int:

    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
