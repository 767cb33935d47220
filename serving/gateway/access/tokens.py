"""Bearer tokens that the operator hands out: a file names who holds one and what it allows; it has only hashes."""

from __future__ import annotations

import hashlib
import secrets
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from feature_repo.errors import LongtailError
from serving.gateway.access.caller import Caller, Rate, Scope
from serving.gateway.access.text_file import read_text
from serving.gateway.errors import BadCredentialsError

Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class TokenEntry(BaseModel):
    """One token. The hash needs no salt: a token is 256 random bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    caller: Name
    sha256: Sha256
    scopes: frozenset[Scope] = Field(min_length=1)
    expires: AwareDatetime | None = None
    requests_per_s: float | None = Field(None, gt=0)
    burst: int = Field(100, ge=1)

    @property
    def as_caller(self) -> Caller:
        rate = None if self.requests_per_s is None else Rate(requests_per_s=self.requests_per_s, burst=self.burst)
        return Caller(name=self.caller, how="token", scopes=self.scopes, rate=rate)


class TokensFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[TokenEntry, ...] = ()


class TokenBook:
    """The tokens of one reading of the file. Raises LongtailError when it cannot be used."""

    def __init__(self, path: Path) -> None:
        text = read_text(path, setting="gateway.authorization.tokens_file")
        try:
            entries = TokensFile.model_validate(tomllib.loads(text)).tokens
        except tomllib.TOMLDecodeError as error:
            raise LongtailError(f"{path} is not valid TOML: {error}") from error
        except ValidationError as error:
            raise LongtailError(f"{path}: {_problems(error)}; `longtail token` writes an entry") from error
        self._by_hash = {entry.sha256: entry for entry in entries}

    def caller_of(self, token: str, *, now: datetime) -> Caller:
        """Raises BadCredentialsError."""
        entry = self._by_hash.get(hash_of(token))
        if entry is None:
            raise BadCredentialsError("the token is not known here; ask the operator for one")
        if entry.expires is not None and now >= entry.expires:
            raise BadCredentialsError(
                f"the token of {entry.caller!r} expired at {entry.expires.isoformat()}; ask the operator for a new one"
            )
        return entry.as_caller


def new_token() -> str:
    return f"lt_{secrets.token_urlsafe(32)}"


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def entry_text(token: str, *, caller: str, scopes: frozenset[Scope], expires: datetime | None) -> str:
    """The lines for the file. Raises LongtailError for what the file would refuse."""
    try:
        entry = TokenEntry(caller=caller, sha256=hash_of(token), scopes=scopes, expires=expires)
    except ValidationError as error:
        raise LongtailError(_problems(error)) from error
    names = ", ".join(f'"{scope}"' for scope in sorted(entry.scopes))
    # TOML's basic strings are JSON's, for what a name may hold
    lines = ["[[tokens]]", f"caller = {_quoted(entry.caller)}", f'sha256 = "{entry.sha256}"', f"scopes = [{names}]"]
    if entry.expires is not None:
        lines.append(f"expires = {entry.expires.astimezone(UTC).isoformat(timespec='seconds')}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    import json

    return json.dumps(text)


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors())
