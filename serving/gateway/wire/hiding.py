"""User ids become pseudonyms at the border, before anything else sees the request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feature_repo.events import MAX_ID_BYTES
from feature_repo.log.pseudonyms import Pseudonyms

Hide = Callable[[Any], None]


def nothing_hidden(_request: Any) -> None:
    """Ids stay what the caller gave."""


def hiding(pseudonyms: Pseudonyms | None) -> Hide:
    """Changes `user_id`, `user_ids` and the events of a request; an id that is too long is left to be refused."""
    if pseudonyms is None:
        return nothing_hidden

    def instead(user_id: str) -> str:
        return pseudonyms.of(user_id) if 0 < len(user_id.encode()) <= MAX_ID_BYTES else user_id

    def hide(request: Any) -> None:
        fields = request.DESCRIPTOR.fields_by_name
        if "user_id" in fields:
            request.user_id = instead(request.user_id)
        if "user_ids" in fields:
            request.user_ids[:] = [instead(user_id) for user_id in request.user_ids]
        for event in request.events if "events" in fields else ():
            event.user_id = instead(event.user_id)

    return hide
