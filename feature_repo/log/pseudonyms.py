"""User ids become keyed hashes where they enter: HMAC-SHA-256, of which 128 bits are kept, as hexadecimal.

Who has the key can compute a user's pseudonym; without it nobody can test a guess. Without the key no id comes back.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Final

from feature_repo.errors import LongtailError

DIGITS: Final = 32
MIN_KEY_BYTES: Final = 16
_BLOCK_BYTES: Final = 64


class Pseudonyms:
    """One key for ever: with another one every user is a stranger."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, user_id: str) -> str:
        return hmac.new(self._key, user_id.encode(), hashlib.sha256).hexdigest()[:DIGITS]

    def expression(self, text: str) -> str:
        """`of` in DuckDB's SQL, of a text expression. The statement holds what the key is made into: do not log it."""
        short = self._key if len(self._key) <= _BLOCK_BYTES else hashlib.sha256(self._key).digest()
        key = short.ljust(_BLOCK_BYTES, b"\0")
        outer, inner = (bytes(byte ^ pad for byte in key).hex() for pad in (0x5C, 0x36))
        return f"left(sha256(unhex('{outer}') || unhex(sha256(unhex('{inner}') || encode({text})))), {DIGITS})"


def open_pseudonyms(key_file: Path | None) -> Pseudonyms | None:
    """None without a key file: ids are kept as they are. Raises LongtailError for a file that is no key."""
    if key_file is None:
        return None
    try:
        key = key_file.read_bytes().strip()
    except OSError as error:
        raise LongtailError(f"features.pseudonym_key_file {key_file} cannot be read: {error}") from error
    if len(key) < MIN_KEY_BYTES:
        raise LongtailError(
            f"features.pseudonym_key_file {key_file} has {len(key)} bytes; give {MIN_KEY_BYTES} or more, such as from "
            "`openssl rand -hex 32`"
        )
    return Pseudonyms(key)
