"""On PYTHONPATH of a lab: its managers write down all that they send to each worker, before it is sealed.

One file per node in $SWARMNET_TEST_RECORD: the bytes of Assignments, each after its length (u32).
"""

from __future__ import annotations

import os
import struct
import sys

if any(argument.endswith("swarmnet-manager") for argument in sys.orig_argv):
    from swarmnet.api.v1 import dispatcher_pb2
    from swarmnet.manager.dispatcher_session import WorkerSession

    _number = WorkerSession._numbered

    def _recorded(
        session: WorkerSession, assignment: dispatcher_pb2.Assignment
    ) -> dispatcher_pb2.ManagerMessage:
        raw = assignment.SerializeToString()
        with open(os.path.join(os.environ["SWARMNET_TEST_RECORD"], session.node_id), "ab") as file:
            file.write(struct.pack("!I", len(raw)) + raw)
        return _number(session, assignment)

    WorkerSession._numbered = _recorded  # type: ignore[method-assign,assignment]
