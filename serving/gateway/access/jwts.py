"""JSON Web Tokens of an identity provider: RFC 7519, `scope` as in RFC 8693."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import jwt

from feature_repo.errors import LongtailError
from serving.gateway.access.caller import Caller, Scope
from serving.gateway.access.settings import AuthorizationSettings
from serving.gateway.access.text_file import read_text
from serving.gateway.errors import BadCredentialsError

LEAST_SECRET_BYTES: Final = 32
REMEMBERED: Final = 4096
# PyJWT lets some of json's and base64's own errors through
UNREADABLE: Final = (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError)
ASYMMETRIC: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"})


class JwtVerifier:
    """The keys of one reading of the files. Raises LongtailError when they cannot be used."""

    def __init__(self, settings: AuthorizationSettings) -> None:
        self._settings = settings
        self._keys = _keys(settings)
        self._seen: OrderedDict[str, tuple[Caller, float]] = OrderedDict()  # by token: a signature costs 0.1 ms

    def caller_of(self, token: str, *, now_unix_s: float) -> Caller:
        """Raises BadCredentialsError."""
        known = self._seen.get(token)
        if known is not None and now_unix_s < known[1]:
            return known[0]
        claims = self._claims(token)
        if now_unix_s >= float(claims["exp"]) + self._settings.jwt_leeway_s:
            raise BadCredentialsError("the JWT is refused: it has expired; ask its issuer for a new one")
        caller = Caller(name=str(claims["sub"])[:128], how="jwt", scopes=_scopes(claims))
        self._seen[token] = caller, float(claims["exp"])
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return caller

    def _claims(self, token: str) -> dict[str, Any]:
        settings = self._settings
        try:
            key = self._key(jwt.get_unverified_header(token))
            claims: dict[str, Any] = jwt.decode(
                token,
                key=key,
                algorithms=[key.algorithm_name],  # the key's, never what the token asks for
                issuer=settings.jwt_issuer or None,
                audience=settings.jwt_audience or None,
                leeway=settings.jwt_leeway_s,
                options={"require": ["exp", "sub"]},
            )
        except UNREADABLE as error:
            raise BadCredentialsError(f"the JWT is refused: {error}; ask its issuer for a new one") from error
        return claims

    def _key(self, header: dict[str, Any]) -> jwt.PyJWK:
        kid = header.get("kid")
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        key = self._keys.get(str(kid))
        if key is None and None in self._keys:
            return self._keys[None]
        if key is None:
            raise BadCredentialsError(f"the JWT names key {str(kid)[:64]!r}, which is not among the gateway's keys")
        return key


def _keys(settings: AuthorizationSettings) -> dict[str | None, jwt.PyJWK]:
    if settings.jwks_file is not None:
        return _key_set(settings.jwks_file)
    if settings.jwt_secret is not None:
        return {None: _secret_key(settings.jwt_secret.get_secret_value(), where="gateway.authorization.jwt_secret")}
    assert settings.jwt_secret_file is not None
    secret = read_text(settings.jwt_secret_file, setting="gateway.authorization.jwt_secret_file").strip()
    return {None: _secret_key(secret, where=str(settings.jwt_secret_file))}


def _secret_key(secret: str, *, where: str) -> jwt.PyJWK:
    raw = secret.encode()
    if len(raw) < LEAST_SECRET_BYTES:
        raise LongtailError(f"the secret in {where} has {len(raw)} bytes; give {LEAST_SECRET_BYTES} or more")
    return jwt.PyJWK({"kty": "oct", "k": jwt.utils.base64url_encode(raw).decode()}, algorithm="HS256")


def _key_set(path: Path) -> dict[str | None, jwt.PyJWK]:
    text = read_text(path, setting="gateway.authorization.jwks_file")
    try:
        keys = jwt.PyJWKSet.from_dict(json.loads(text)).keys
    except (json.JSONDecodeError, AttributeError, TypeError, jwt.PyJWTError) as error:
        raise LongtailError(f"{path} is no JSON Web Key Set: {error}") from error
    wrong = [key.key_id for key in keys if key.algorithm_name not in ASYMMETRIC]
    if wrong:
        raise LongtailError(
            f"{path}: key {wrong[0]!r} is no public key; give a secret as gateway.authorization.jwt_secret_file"
        )
    if len(keys) > 1 and not all(key.key_id for key in keys):
        raise LongtailError(f"{path}: several keys, and not each has a `kid`; name them, so that a token can choose")
    return {key.key_id: key for key in keys}


def _scopes(claims: dict[str, Any]) -> frozenset[Scope]:
    """Those of ours; an identity provider may give others too."""
    given = claims.get("scope", claims.get("scp", ""))
    names = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    return frozenset(Scope(name) for name in names if name in set(Scope))
