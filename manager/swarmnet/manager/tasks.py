"""What a task's two states mean to the control loops."""

from __future__ import annotations

from swarmnet.api.v1 import types_pb2 as types


def is_ended(task: types.Task) -> bool:
    """It runs nowhere, and never will again."""
    return task.state >= types.TASK_STATE_COMPLETE


def is_wanted(task: types.Task) -> bool:
    """It is to run; one that ended all the same may get a successor."""
    return task.desired_state <= types.TASK_STATE_RUNNING


def is_lost(node: types.Node | None) -> bool:
    """The node's tasks are given up: it was removed, is silent, missed a rotation, was drained by force, or
    is a manager by now."""
    return (
        node is None
        or node.fenced
        or node.drained_by_force
        or node.state == types.NODE_STATE_DOWN
        or node.role == types.ROLE_MANAGER
    )
