"""Everything that can go wrong, once: refusals with their gRPC code, and dependencies that failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

import grpc

from feature_repo.errors import LongtailError


class Cause(StrEnum):
    """Why a dependency did not answer in full."""

    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    BAD_ANSWER = "bad_answer"
    CONTRACT_MISMATCH = "contract_mismatch"
    QUEUE_FULL = "queue_full"
    CIRCUIT_OPEN = "circuit_open"
    DISK = "disk"
    CRASH = "crash"
    BUG = "bug"


class DependencyError(LongtailError):
    """A call to a dependency failed or was late; the failure policy decides what follows."""

    dependency: ClassVar[str]

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(f"{self.dependency}: {cause}: {detail}")
        self.cause = cause
        self.detail = detail


class FeaturesError(DependencyError):
    dependency = "features"


class CandidatesError(DependencyError):
    dependency = "candidates"


class ModelError(DependencyError):
    dependency = "model"


class DecisionLogError(DependencyError):
    dependency = "decision_log"


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One field of a request that is out of its range."""

    field: str
    description: str


class RefusalError(LongtailError):
    """A call that gets no answer. `reason` is for programs, the message for people."""

    reason: ClassVar[str]

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.metadata: Mapping[str, str] = metadata


class InvalidRequestError(RefusalError):
    reason = "INVALID_REQUEST"

    def __init__(self, violations: list[Violation]) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.field}: {first.description}{more}", field=first.field)
        self.violations = tuple(violations)


class UnreadableRequestError(RefusalError):
    reason = "UNREADABLE_REQUEST"


class ReplayForbiddenError(RefusalError):
    reason = "REPLAY_NOT_ALLOWED"


class ForgetForbiddenError(RefusalError):
    reason = "FORGET_USER_NOT_ALLOWED"


class OverloadedError(RefusalError):
    reason = "NO_PERMIT"

    def __init__(self, *, permits: int, retry_after_s: float) -> None:
        super().__init__(
            f"all {permits} permits are taken, and nobody may wait longer; retry in {retry_after_s:g} s",
            permits=str(permits),
        )
        self.retry_after_s = retry_after_s


class NoCredentialsError(RefusalError):
    reason = "NO_CREDENTIALS"


class BadCredentialsError(RefusalError):
    reason = "BAD_CREDENTIALS"


class MissingScopeError(RefusalError):
    reason = "MISSING_SCOPE"


class QuotaError(RefusalError):
    reason = "QUOTA_EXCEEDED"

    def __init__(self, message: str, *, caller: str, retry_after_s: float) -> None:
        super().__init__(message, caller=caller)
        self.retry_after_s = retry_after_s


class AuditError(RefusalError):
    """What must be on record could not be put there."""

    reason = "AUDIT_LOG_FAILED"


class DeadlineError(RefusalError):
    reason = "DEADLINE_PASSED"


class NotFullError(RefusalError):
    """The caller set require_full and a dependency could not answer."""

    reason = "DEPENDENCY_FAILED"


class FeedbackError(RefusalError):
    reason = "EVENT_LOG_FAILED"


class ErasureFailedError(RefusalError):
    reason = "ERASURE_FAILED"


class OtherParametersError(RefusalError):
    reason = "CAMPAIGN_CHANGED"


class BusyError(RefusalError):
    reason = "CAMPAIGN_BUSY"


class SelectionFailedError(RefusalError):
    """What is needed to choose users cannot be read; calling again goes on."""

    reason = "SELECTION_FAILED"


class QuietError(RefusalError):
    reason = "QUIET_HOURS"


class DecisionNotFoundError(RefusalError):
    reason = "NO_SUCH_DECISION"


class DecisionUnreadableError(RefusalError):
    reason = "DECISION_OF_ANOTHER_VERSION"


class DecisionArchiveError(RefusalError):
    reason = "DECISION_LOG_FAILED"


CODES: Final[Mapping[type[RefusalError], grpc.StatusCode]] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    UnreadableRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    ReplayForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    ForgetForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    NoCredentialsError: grpc.StatusCode.UNAUTHENTICATED,
    BadCredentialsError: grpc.StatusCode.UNAUTHENTICATED,
    MissingScopeError: grpc.StatusCode.PERMISSION_DENIED,
    QuotaError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    AuditError: grpc.StatusCode.UNAVAILABLE,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    NotFullError: grpc.StatusCode.UNAVAILABLE,
    FeedbackError: grpc.StatusCode.UNAVAILABLE,
    ErasureFailedError: grpc.StatusCode.UNAVAILABLE,
    OtherParametersError: grpc.StatusCode.FAILED_PRECONDITION,
    BusyError: grpc.StatusCode.ABORTED,
    SelectionFailedError: grpc.StatusCode.UNAVAILABLE,
    QuietError: grpc.StatusCode.FAILED_PRECONDITION,
    DecisionNotFoundError: grpc.StatusCode.NOT_FOUND,
    DecisionUnreadableError: grpc.StatusCode.FAILED_PRECONDITION,
    DecisionArchiveError: grpc.StatusCode.UNAVAILABLE,
}
