"""Which event_ids are in the imports: 64-bit digests, sorted, 8 bytes each."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.errors import EventLogError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class ImportedIds:
    """Digests of the ids in the imports' Parquet, read again when an import changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: tuple[tuple[str, int, int], ...] = ()
        self._digests: npt.NDArray[np.uint64] | None = None

    def digests(self) -> npt.NDArray[np.uint64] | None:
        """Sorted; None when there is no import."""
        files = sorted(self._directory.glob("*.parquet"))
        seen = tuple((file.name, (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files)
        if seen != self._seen:
            self._digests = _read_digests(files) if files else None
            self._seen = seen
        return self._digests


def _read_digests(files: list[Path]) -> npt.NDArray[np.uint64]:
    import duckdb
    import numpy as np

    with duckdb.connect() as con:
        try:
            paths = [str(file) for file in files]
            rows = con.execute("SELECT md5_number_lower(event_id) AS digest FROM read_parquet($1)", [paths])
            return np.sort(np.asarray(rows.fetchnumpy()["digest"], dtype=np.uint64))
        except duckdb.Error as error:
            raise EventLogError(f"cannot read the imported events {', '.join(paths)}: {error}") from error


def contains(known: npt.NDArray[np.uint64] | None, digest: int) -> bool:
    """Whether it is one of `known`."""
    if known is None:
        return False
    import numpy as np

    place = int(np.searchsorted(known, np.uint64(digest)))
    return place < len(known) and int(known[place]) == digest


def digest_of(event_id: str) -> int:
    """DuckDB's md5_number_lower."""
    return int.from_bytes(hashlib.md5(event_id.encode(), usedforsecurity=False).digest()[8:], "little")
