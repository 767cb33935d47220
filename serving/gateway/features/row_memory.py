"""The rows last read of recent users, for when the feature store does not answer."""

from __future__ import annotations

from collections import OrderedDict

from serving.gateway.domain import Rows, UserId


class RowMemory:
    """Forgets the users not read for longest."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: OrderedDict[UserId, Rows] = OrderedDict()

    def remember(self, user_id: UserId, rows: Rows) -> None:
        self._rows[user_id] = rows
        self._rows.move_to_end(user_id)
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)

    def forget(self, user_id: UserId) -> None:
        self._rows.pop(user_id, None)

    def recall(self, user_id: UserId) -> Rows | None:
        return self._rows.get(user_id)
