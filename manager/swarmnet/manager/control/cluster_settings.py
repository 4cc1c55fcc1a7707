"""The settings of a cluster that an operator may choose, at its founding and later, and their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.duration_pb2 import Duration

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import InvalidArgument
from swarmnet.core.limits import (
    MAX_CERTIFICATE_LIFETIME_S,
    MAX_HEARTBEAT_PERIOD_S,
    MAX_KEY_ROTATION_PERIOD_S,
    MAX_RETIRE_GRACE_S,
    MAX_ROTATION_DEADLINE_S,
    MIN_CERTIFICATE_LIFETIME_S,
    MIN_HEARTBEAT_PERIOD_S,
    MIN_KEY_ROTATION_PERIOD_S,
    MIN_RETIRE_GRACE_S,
    MIN_ROTATION_DEADLINE_S,
)


@dataclass(frozen=True, slots=True)
class DurationSetting:
    """`field` of Cluster may be set to `shortest_s` to `longest_s` seconds."""

    field: str
    what: str
    shortest_s: float
    longest_s: float
    hint: str

    def check(self, value: Duration) -> None:
        """InvalidArgument unless it is in range."""
        seconds = value.ToTimedelta().total_seconds()
        if not self.shortest_s <= seconds <= self.longest_s:
            raise InvalidArgument(f"a {self.what} of {seconds:g} s is out of range", hint=self.hint)


KEY_ROTATION_PERIOD: Final = DurationSetting(
    "key_rotation_period",
    "key rotation period",
    MIN_KEY_ROTATION_PERIOD_S,
    MAX_KEY_ROTATION_PERIOD_S,
    "Use 1 minute to 30 days, such as 12h.",
)
KEY_ROTATION_DEADLINE: Final = DurationSetting(
    "rotation_deadline",
    "key rotation deadline",
    MIN_ROTATION_DEADLINE_S,
    MAX_ROTATION_DEADLINE_S,
    "Use 10 seconds to 1 hour, such as 5m: nodes are given up that do not answer so long.",
)
RETIRE_GRACE: Final = DurationSetting(
    "retire_grace",
    "grace time for retired keys",
    MIN_RETIRE_GRACE_S,
    MAX_RETIRE_GRACE_S,
    "Use 1 second to 1 hour, such as 10s: no packet is to be on its way longer than that.",
)
HEARTBEAT_PERIOD: Final = DurationSetting(
    "heartbeat_period",
    "heartbeat period",
    MIN_HEARTBEAT_PERIOD_S,
    MAX_HEARTBEAT_PERIOD_S,
    "Use 1 second to 1 minute, such as 5s: a worker that is silent for three of them is down.",
)
CERTIFICATE_LIFETIME: Final = DurationSetting(
    "certificate_lifetime",
    "certificate lifetime",
    MIN_CERTIFICATE_LIFETIME_S,
    MAX_CERTIFICATE_LIFETIME_S,
    "Use 1 hour to 10 years, such as 2160h.",
)
_DURATIONS: Final[Mapping[str, DurationSetting]] = {
    "key_rotation_period": KEY_ROTATION_PERIOD,
    "key_rotation_deadline": KEY_ROTATION_DEADLINE,
    "retire_grace": RETIRE_GRACE,
    "heartbeat_period": HEARTBEAT_PERIOD,
    "certificate_lifetime": CERTIFICATE_LIFETIME,
}
"""By the field of UpdateClusterRequest."""
_FLAGS: Final = ("encrypt_by_default",)
"""Of the same name in both."""


def check_update(request: control.UpdateClusterRequest) -> None:
    """InvalidArgument if it changes nothing, or for the first setting that cannot be so."""
    if not request.ListFields():
        raise InvalidArgument("no setting to change", hint="Give at least one of the settings.")
    for name, setting in _DURATIONS.items():
        if request.HasField(name):  # type: ignore[arg-type]
            setting.check(getattr(request, name))


def update(cluster: types.Cluster, request: control.UpdateClusterRequest) -> None:
    """Each setting that is given."""
    for name, setting in _DURATIONS.items():
        if request.HasField(name):  # type: ignore[arg-type]
            getattr(cluster, setting.field).CopyFrom(getattr(request, name))
    for name in _FLAGS:
        if request.HasField(name):  # type: ignore[arg-type]
            setattr(cluster, name, getattr(request, name))
