"""PrivacyService: forgets a user, off the event loop and one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc

from feature_repo.errors import LongtailError
from longtail.activation.v1 import privacy_pb2 as pb
from longtail.activation.v1 import privacy_pb2_grpc
from serving.gateway.access.gate import Gate
from serving.gateway.domain import UserId
from serving.gateway.errors import ErasureFailedError
from serving.gateway.features.row_memory import RowMemory
from serving.gateway.wire import decoding, encoding

if TYPE_CHECKING:
    from feature_repo.privacy.erasure import Proof  # which imports engines that serving needs for this alone

    Context = grpc.aio.ServicerContext[Any, Any]  # generic only in its stubs

Erase = Callable[[str, datetime], "Proof"]


class PrivacyServicer(privacy_pb2_grpc.PrivacyServiceServicer):
    """`erase` may take seconds. Who may call it is the gate's to say."""

    def __init__(self, *, erase: Erase, memory: RowMemory, gate: Gate) -> None:
        self._erase = erase
        self._memory = memory
        self._gate = gate
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="erasure")

    async def ForgetUser(self, request: pb.ForgetUserRequest, context: Context) -> pb.ForgetUserResponse:  # noqa: N802
        self._gate.check_forget_user()
        user_id = decoding.decode_forgotten(request)
        loop = asyncio.get_running_loop()
        try:
            proof = await loop.run_in_executor(self._thread, self._erase, user_id, datetime.now(UTC))
        except (LongtailError, OSError) as error:
            raise ErasureFailedError(str(error)) from error
        finally:
            self._memory.forget(UserId(user_id))
        return encoding.encode_proof(proof)
