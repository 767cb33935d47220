"""`longtail` with a clock that can be set: SIGUSR2 puts `time.time` an hour on, and back."""

from __future__ import annotations

import runpy
import signal
import sys
import time
from typing import Final

JUMP_S: Final = 3600.0

_real_time = time.time
_offset_s = [0.0]


def main() -> None:
    def jump(_number: int, _frame: object) -> None:
        _offset_s[0] = JUMP_S - _offset_s[0]

    signal.signal(signal.SIGUSR2, jump)
    time.time = lambda: _real_time() + _offset_s[0]  # before the product is imported
    sys.argv[0] = "longtail"
    runpy.run_module("cli.main", run_name="__main__")


if __name__ == "__main__":
    main()
