"""Names of decisions: the same for retries that carry an idempotency key, sorted by time otherwise."""

from __future__ import annotations

import hashlib
import secrets
import time

from serving.gateway.domain import Query


def new_decision_id(query: Query) -> str:
    """32 hexadecimal digits.

    >>> from serving.gateway.domain import Query, UserId
    >>> query = Query(user_id=UserId("u"), idempotency_key="order 7")
    >>> new_decision_id(query) == new_decision_id(query)
    True
    """
    if not query.idempotency_key:
        return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
    user_id = query.user_id.encode()
    named = len(user_id).to_bytes(4, "big") + user_id + query.idempotency_key.encode()
    return hashlib.blake2b(named, digest_size=16).hexdigest()
