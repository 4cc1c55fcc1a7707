"""Makes roles come true, as swarmkit's role manager does: the wishes in the state against Raft's members.

A worker that is wanted as a manager brings itself into Raft; once it is a member, it is a manager. A manager
that is not wanted as one is taken out of Raft; once it is no member, it is a worker. One node at a time, and
never at the cost of the majority. A leader that is to go hands over first, and the next one carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import structlog

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import NotLeader, SwarmnetError
from swarmnet.core.state import Transaction
from swarmnet.manager.keymanager import rekey_without
from swarmnet.manager.raft.member import Member
from swarmnet.manager.roles import check_majority, wanted_role
from swarmnet.manager.settings import bracketed, port_of
from swarmnet.manager.store import Store

log = structlog.get_logger()

_LOOK_S: Final = (0.2, 5.0)
"""Raft's members are looked at so often, while a change is on its way and otherwise."""
_DEMOTED: Final = (
    "demoted: no swarmnet-worker has taken over on its host yet. Start it there to have a worker, or remove "
    "the node: `swarmnet node rm`"
)
_OF_A_CERTIFICATE: Final = ("certificate_root", "certificate_expires_at", "trusted_roots")
"""Told again by the daemon that the node is from now on."""


class Managers(Protocol):
    """The managers as Raft sees them."""

    def members(self) -> Mapping[str, Member]: ...
    def reachable(self, node_id: str) -> bool: ...
    async def remove(self, node_id: str) -> None:
        """NotLeader for this manager itself, which hands over then."""


class RoleManager:
    """Runs on the leader. `node_id` is this manager."""

    name = "roles"

    def __init__(self, store: Store, managers: Managers, node_id: str) -> None:
        self._store = store
        self._managers = managers
        self._node_id = node_id
        self._said = ""

    async def run(self) -> None:
        """Until this manager no longer leads. What cannot be done now is logged once, and tried again."""
        with self._store.subscribe(types.Node) as changes:
            while True:
                try:
                    await self.reconcile()
                except NotLeader as error:
                    log.info("control loop ended", loop=self.name, reason=error.message)
                    return
                except SwarmnetError as error:
                    self._log(error)
                await changes.within(_LOOK_S[0] if self._unfinished() else _LOOK_S[1])

    async def reconcile(self) -> None:
        """Write down what has come true, then take at most one manager out of Raft."""
        await self._store.read_barrier()
        members = self._managers.members()
        await self._store.transact(lambda transaction: settle(transaction, members))
        leaving = [
            each
            for each in self._store.state.all(types.Node)
            if each.meta.id in members and wanted_role(each) == types.ROLE_WORKER
        ]
        if leaving:
            await self._take_out(min(leaving, key=lambda each: each.meta.id == self._node_id), members)

    async def _take_out(self, node: types.Node, members: Mapping[str, Member]) -> None:
        check_majority(node, members.keys() - {node.meta.id}, self._managers.reachable)
        await self._managers.remove(node.meta.id)
        log.info("manager taken out of raft", node=node.meta.id, hostname=node.hostname)
        rest = self._managers.members()
        await self._store.transact(lambda transaction: settle(transaction, rest))

    def _unfinished(self) -> bool:
        return any(each.desired_role for each in self._store.state.all(types.Node))

    def _log(self, error: SwarmnetError) -> None:
        if error.message != self._said:
            log.warning("a change of roles has to wait", reason=error.message)
        self._said = error.message


def settle(transaction: Transaction, members: Mapping[str, Member]) -> None:
    """Give every node the role, and every manager the address, that Raft's members say it has."""
    for node in transaction.scan(types.Node):
        member = members.get(node.meta.id)
        changed = transaction.edit(node)
        _settle(changed, member)
        if changed == node:
            continue
        if changed.role != node.role:
            what = "node promoted" if changed.role == types.ROLE_MANAGER else "node demoted"
            rekey_without(transaction, node.meta.id, what)
            log.info(what, node=node.meta.id, hostname=node.hostname)
        transaction.put(changed)


def _settle(node: types.Node, member: Member | None) -> None:
    wanted = wanted_role(node)
    if member is not None and wanted == types.ROLE_MANAGER:
        if node.role == types.ROLE_WORKER:
            _become_manager(node)
        if node.address != member.address:
            node.bootstrap_address = _moved(node.bootstrap_address, member.address)
            node.address = member.address
    elif member is None and wanted == types.ROLE_WORKER and node.role == types.ROLE_MANAGER:
        _become_worker(node)
    if node.desired_role == node.role and (member is not None) is (node.role == types.ROLE_MANAGER):
        node.desired_role = types.ROLE_UNSPECIFIED


def _become_manager(node: types.Node) -> None:
    node.role, node.state = types.ROLE_MANAGER, types.NODE_STATE_READY
    node.fenced, node.demoted, node.message = False, False, ""
    for of_a_worker in ("data_path_address", "capabilities", *_OF_A_CERTIFICATE):
        node.ClearField(of_a_worker)


def _become_worker(node: types.Node) -> None:
    node.role, node.state = types.ROLE_WORKER, types.NODE_STATE_DOWN
    node.demoted, node.message = True, _DEMOTED
    for of_a_manager in ("address", "bootstrap_address", *_OF_A_CERTIFICATE):
        node.ClearField(of_a_manager)


def _moved(bootstrap: str, address: str) -> str:
    """Both ports of a manager are at one host, which is the one of its address now."""
    if not bootstrap:
        return ""
    host = address.rpartition(":")[0].strip("[]")
    return f"{bracketed(host)}:{port_of(bootstrap, 0)}"
