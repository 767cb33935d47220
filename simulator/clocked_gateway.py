"""The gateway as it is shipped, but for its clock: `python -m simulator.clocked_gateway CONFIG.json`.

The clock is eight bytes of a file, seconds since 1970: whoever writes them turns it.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from feature_repo.layout import StateDir
from feature_repo.settings import FeatureSettings
from serving.gateway.observing import logs
from serving.gateway.serve import serve
from serving.gateway.settings import GatewaySettings

TIME = struct.Struct("<d")


class Config(BaseModel):
    """What the process is told."""

    state_dir: Path
    clock: Path
    gateway: GatewaySettings


def set_clock(file: Path, unix_s: float) -> None:
    """All eight bytes at once: a reader never sees half of them."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(handle, TIME.pack(unix_s), 0)
    finally:
        os.close(handle)


def clock_of(file: Path) -> Callable[[], float]:
    return lambda: float(TIME.unpack(file.read_bytes())[0])


def main() -> None:
    config = Config.model_validate_json(Path(sys.argv[1]).read_text("utf-8"))
    logs.configure("text", "warning")
    asyncio.run(
        serve(
            config.gateway,
            features=FeatureSettings(),
            state=StateDir(config.state_dir),
            on_ready=lambda port: None,
            clock=clock_of(config.clock),
        )
    )


if __name__ == "__main__":
    main()
