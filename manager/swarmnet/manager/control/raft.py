"""Raft itself, for operators: where it stands, and who is to lead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc.aio
import structlog

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import control_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import FailedPrecondition
from swarmnet.core.timestamps import duration
from swarmnet.manager.control import lookup
from swarmnet.manager.control.surroundings import Noun
from swarmnet.manager.raft.member import Member

log = structlog.get_logger()

_LEADER_ANSWER_S: Final = 1.0


class RaftNoun(Noun):
    async def GetRaftStatus(
        self, request: control.GetRaftStatusRequest, context: object
    ) -> control.RaftStatus:
        """Answered by whichever manager is asked, also without a leader: an operator asks just then."""
        raft = self._here.managers.raft()
        standing, sizes = await raft.standing(), await raft.sizes()
        matched = dict(standing.matched) if standing.leads else await self._told_by_leader()
        if standing.leads:
            matched[self._here.node_id] = standing.last_index
        return control.RaftStatus(
            node_id=self._here.node_id,
            term=standing.term,
            leader_id=standing.leader_id or "",
            commit_index=standing.commit_index,
            applied_index=standing.applied_index,
            last_index=standing.last_index,
            last_term=standing.last_term,
            snapshot_index=standing.snapshot_index,
            snapshot_bytes=sizes.snapshot_bytes,
            journal_bytes=sizes.journal_bytes,
            journal_entries=standing.journal_entries,
            members=[self._status_of(each, matched) for each in self._here.managers.members().values()],
        )

    def _status_of(self, member: Member, matched: Mapping[str, int]) -> control.RaftMemberStatus:
        node = self._store.state.get(types.Node, member.node_id)
        status = control.RaftMemberStatus(
            node_id=member.node_id,
            hostname=node.hostname if node is not None else "",
            address=member.address,
            reachable=self._here.managers.reachable(member.node_id),
            match_index=matched.get(member.node_id),
        )
        ago_s = self._here.managers.raft().heard_ago_s(member.node_id)
        if ago_s is not None:
            status.last_heard.CopyFrom(duration(ago_s))
        return status

    async def _told_by_leader(self) -> dict[str, int]:
        """How far each manager has the log; nothing when no leader says so soon."""
        if (channel := self._here.managers.leader_channel()) is None:
            return {}
        stub = control_pb2_grpc.ControlStub(channel)
        try:
            status = await stub.GetRaftStatus(control.GetRaftStatusRequest(), timeout=_LEADER_ANSWER_S)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:  # the latter: it leads no more
            log.info("the leader did not tell how far the managers are", error=str(error))
            return {}
        if status.leader_id != status.node_id:
            return {}
        return {each.node_id: each.match_index for each in status.members if each.HasField("match_index")}

    async def TransferLeadership(
        self, request: control.TransferLeadershipRequest, context: object
    ) -> control.TransferLeadershipResponse:
        target = lookup.node(self._store.state, request.ref).meta.id if request.ref else None
        if target is not None and not self._here.managers.is_member(target):
            raise FailedPrecondition(
                f"node {request.ref} is not a manager", hint="`swarmnet raft status` lists the managers."
            )
        return control.TransferLeadershipResponse(leader_id=await self._here.managers.raft().transfer(target))
