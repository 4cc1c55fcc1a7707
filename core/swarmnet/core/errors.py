"""Every way swarmnet says no, one name per cause.

    SwarmnetError
     ├─ InvalidArgument       the request itself is wrong; repeating it cannot help
     │   ├─ MalformedToken    a join token that is not one
     │   └─ UnknownOption     a driver option that nothing here understands
     ├─ NotFound              no such network, config, service, node, task, image
     ├─ AlreadyExists         the name or the swarm is there already
     ├─ FailedPrecondition    right request, wrong moment
     │   ├─ InUse             something still refers to it
     │   ├─ SwarmLocked       this manager's files are sealed, and nobody has given it the unlock key yet
     │   ├─ SwarmScoped       only a task may join that network
     │   └─ NotSupportedHere  this kernel or host cannot do it
     ├─ NotAManager           a cluster command given to a worker, or to a host outside any swarm
     ├─ Unauthenticated       no identity that this cluster issued
     │   ├─ BadToken          a well-formed join token that this cluster does not honour
     │   └─ BadUnlockKey      a well-formed unlock key that does not open this manager
     ├─ PermissionDenied      an identity of the wrong role
     ├─ ResourceExhausted     a limit of core/limits.py, a full disk, an empty pool
     ├─ Conflict              somebody changed it first; read again and retry
     ├─ DeadlineExceeded      the caller's time is over; the request may or may not have been applied
     ├─ OutcomeUnknown        the request may or may not have been applied; ask, or retry with its request id
     ├─ Unavailable           try again, here or elsewhere
     │   ├─ NoLeader          no majority of managers
     │   └─ NotLeader         another manager leads
     └─ Internal              a defect, or damage on a disk; never retried

The message says what failed and why; `hint` says what the operator does next. Neither ever holds a secret.
"""

from __future__ import annotations

from typing import ClassVar


class SwarmnetError(Exception):
    """Base of all errors that reach an operator or an API client.

    `reason` is stable and meant for programs; `status` is the name of the gRPC status code it travels as.
    """

    reason: ClassVar[str] = "INTERNAL"
    status: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InvalidArgument(SwarmnetError):
    reason = "INVALID_ARGUMENT"
    status = "INVALID_ARGUMENT"


class MalformedToken(InvalidArgument):
    reason = "MALFORMED_TOKEN"


class UnknownOption(InvalidArgument):
    reason = "UNKNOWN_OPTION"


class NotFound(SwarmnetError):
    reason = "NOT_FOUND"
    status = "NOT_FOUND"


class AlreadyExists(SwarmnetError):
    reason = "ALREADY_EXISTS"
    status = "ALREADY_EXISTS"


class FailedPrecondition(SwarmnetError):
    reason = "FAILED_PRECONDITION"
    status = "FAILED_PRECONDITION"


class InUse(FailedPrecondition):
    reason = "IN_USE"


class SwarmLocked(FailedPrecondition):
    reason = "SWARM_LOCKED"

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(
            message
            or "Swarm is encrypted and needs to be unlocked before it can be used. Please use "
            '"swarmnet swarm unlock" to unlock it.',
            hint=hint,
        )


class SwarmScoped(FailedPrecondition):
    reason = "SWARM_SCOPED"


class NotSupportedHere(FailedPrecondition):
    reason = "NOT_SUPPORTED_HERE"


class NotAManager(FailedPrecondition):
    reason = "NOT_A_MANAGER"


class Unauthenticated(SwarmnetError):
    reason = "UNAUTHENTICATED"
    status = "UNAUTHENTICATED"


class BadToken(Unauthenticated):
    reason = "BAD_TOKEN"


class BadUnlockKey(Unauthenticated):
    reason = "BAD_UNLOCK_KEY"


class PermissionDenied(SwarmnetError):
    reason = "PERMISSION_DENIED"
    status = "PERMISSION_DENIED"


class ResourceExhausted(SwarmnetError):
    reason = "RESOURCE_EXHAUSTED"
    status = "RESOURCE_EXHAUSTED"


class Conflict(SwarmnetError):
    reason = "CONFLICT"
    status = "ABORTED"


class DeadlineExceeded(SwarmnetError):
    reason = "DEADLINE_EXCEEDED"
    status = "DEADLINE_EXCEEDED"


class OutcomeUnknown(SwarmnetError):
    reason = "OUTCOME_UNKNOWN"
    status = "UNKNOWN"


class Unavailable(SwarmnetError):
    reason = "UNAVAILABLE"
    status = "UNAVAILABLE"


class NoLeader(Unavailable):
    reason = "NO_LEADER"

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(
            message
            or "The swarm does not have a leader. It's possible that too few managers are online. "
            "Make sure more than half of the managers are online.",
            hint=hint,
        )


class NotLeader(Unavailable):
    reason = "NOT_LEADER"


class Internal(SwarmnetError):
    reason = "INTERNAL"


def _tree(root: type[SwarmnetError]) -> list[type[SwarmnetError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


BY_REASON: dict[str, type[SwarmnetError]] = {cls.reason: cls for cls in reversed(_tree(SwarmnetError))}
"""The class a client raises again for the reason it received."""
