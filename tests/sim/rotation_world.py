"""One network on a few workers, a leader that may die, and a wire: the real code of all three, step by step.

What is real: the key manager on a State, acknowledgements, assignments, registration; a worker's agent, data
path, ledger and sealer, over a kernel that takes netlink messages (fake_kernel.py). What is not: Raft (a
commit is one step), gRPC (a session is two queues, which a break empties), the orchestrator.

Checked after every event, and before every single change of any kernel:

    epochs      at most three live, ascending, exactly one current; at most three in any kernel
    switch      an epoch becomes current only when every holder that is up can receive it: kernel and gossip
    sending     nobody sends with an SA that its peer does not have; no policy names an SA that is not there
    nonces      no sequence number is sent twice under one key, whatever restarts
    secrets     the managers keep exactly those of live epochs, and never two of one
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

from tests.sim.rotation_worker import Killed, SimWorker
from tests.unit import local_raft as local

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import store_pb2 as store
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core import rotation
from swarmnet.core.datapath.xfrm import Direction, Policy, Sa, SaId, fingerprint
from swarmnet.core.keys import EpochSecret, esp_key, spi, split_spi
from swarmnet.core.limits import MAX_LIVE_EPOCHS
from swarmnet.core.secret import SecretBytes
from swarmnet.core.state import State, Transaction
from swarmnet.core.timestamps import stamp
from swarmnet.manager.dispatcher import _register
from swarmnet.manager.dispatcher_acks import Acknowledgements
from swarmnet.manager.dispatcher_assignment import Picture
from swarmnet.manager.entitlement import entitled, up
from swarmnet.manager.keymanager import KeyManager, request_rotation

NET = "net-net"
INDEX, PORT = 1, 20001
_ROUNDS = 400
_NEVER = 1 << 62
_PACKETS = 1000
"""That leave by each policy between any two changes of a kernel."""


class Violated(AssertionError):
    """An invariant does not hold."""


def _demand(holds: object, what: str) -> None:
    if not holds:
        raise Violated(what)


@dataclass
class Session:
    """What is under way: assignments down, each with the index of its state, and reports up.

    `told` and `said` are what was handed to it last.
    """

    down: deque[tuple[int, dispatcher.Assignment]] = field(default_factory=deque)
    up: deque[dispatcher.KeyReport] = field(default_factory=deque)
    told: dispatcher.Assignment | None = None
    said: dispatcher.KeyReport | None = None


class World:
    """Every public method is one event.

    A node that just came back, or is entitled again, is `catching_up` until it has applied what the managers
    have decided by then: the others went on without it.
    """

    def __init__(self, folder: Path, names: tuple[str, ...] = ("w1", "w2")) -> None:
        self.state, self.now = State(), local.NOW
        self.workers = {name: SimWorker(name, n, folder / name) for n, name in enumerate(names, 1)}
        self.sessions: dict[str, Session] = {}
        self.returned_at: dict[str, int] = {}
        self.catching_up: dict[str, int] = {}
        """Name -> index of the state of which it has to have applied the assignment."""
        self.acquainted: set[tuple[str, str]] = set()
        """(a, b): a has carried out an assignment that names b as its peer, and neither was away since."""
        self.forgetful: set[str] = set()
        """Names whose process is new: gossip knows nothing until the next assignment."""
        self._secrets: dict[int, bytes] = {}
        self._used: dict[bytes, int] = {}
        nodes = [local.node(name, n) for n, name in enumerate(names, 1)]
        tasks = [_task(name) for name in names]
        local.fill(self.state, *nodes, local.network("net", index=INDEX), *tasks)
        self._new_leader()
        for worker in self.workers.values():
            worker.kernel.before = lambda _: self.check_kernels()

    # The managers

    def _new_leader(self) -> None:
        self.acks = Acknowledgements(self.state)
        self.keys = KeyManager(self.acks.of)
        self.sessions.clear()

    def leader_dies(self) -> None:
        """What it knew of reports is lost with it, and so are all sessions."""
        self._new_leader()

    def plan(self) -> float | None:
        """One pass of the key manager, committed."""
        return self._commit(lambda t: self.keys.plan(t, self.now))

    def plan_and_die(self) -> None:
        """The pass was made, and never committed."""
        self.keys.plan(Transaction(self.state), self.now)
        self.leader_dies()

    def rotate(self) -> None:
        self._commit(lambda t: request_rotation(t, [NET], "requested"))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def silent(self, name: str) -> None:
        """Three heartbeats were missed: without a session that is so."""
        if name not in self.sessions:
            local.edit(
                self.state, types.Node, _id(name), lambda n: setattr(n, "state", types.NODE_STATE_DOWN)
            )
            self._went_away(name)

    def _went_away(self, name: str) -> None:
        self.catching_up[name] = _NEVER
        self.acquainted = {pair for pair in self.acquainted if name not in pair}

    def _meets(self, name: str, index: int, assignment: dispatcher.Assignment) -> None:
        ids = {peer.node_id for each in assignment.networks for peer in each.peers}
        for other in self.workers:
            if _id(other) in ids and index >= self.returned_at.get(other, 0):
                self.acquainted.add((name, other))

    def _parts(self, name: str, assignment: dispatcher.Assignment) -> None:
        """Before it is carried out."""
        ids = {peer.node_id for each in assignment.networks for peer in each.peers}
        self.acquainted -= {(name, other) for other in self.workers if _id(other) not in ids}

    def task_ends(self, name: str) -> None:
        local.report(self.state, f"task-{name}", types.TASK_STATE_SHUTDOWN)

    def task_comes(self, name: str) -> None:
        local.report(self.state, f"task-{name}", types.TASK_STATE_ASSIGNED)
        self._went_away(name)
        if name in self.sessions:
            self._comes_back(name)

    def _comes_back(self, name: str) -> None:
        self.catching_up[name] = self.returned_at[name] = self.state.index

    def _commit(self, decide) -> float | None:  # type: ignore[no-untyped-def]
        before = self.current()
        result: float | None = local.commit(self.state, decide, self.now)
        for name in self.workers:
            node = self.state.get(types.Node, _id(name))
            if node is not None and node.fenced:
                self._went_away(name)
        self._check_state()
        if before and self.current() != before:
            self._check_switch()
        return result

    # Sessions

    def register(self, name: str) -> None:
        worker = self.workers[name]
        self.acks.forget(worker.node_id)
        hello = dispatcher.Hello(
            hostname=name,
            gossip_address=f"{worker.address}:7946",
            data_path_address=worker.address,
            capabilities=types.NodeCapabilities(esp=True, images=["host"]),
        )
        _demand(local.commit(self.state, lambda t: _register(t, worker.node_id, hello)), "registered")
        self.sessions[name] = Session()
        if name in self.catching_up:
            self._comes_back(name)
        self._report(name)

    def breaks(self, name: str) -> None:
        self.sessions.pop(name, None)

    def push(self, name: str) -> None:
        """As the dispatcher does: the newest assignment, if it says something new."""
        session = self.sessions.get(name)
        node = self.state.get(types.Node, _id(name))
        if session is None or node is None:
            return
        if node.fenced or node.state == types.NODE_STATE_DOWN:
            self.breaks(name)
            return
        assignment = Picture(self.state, ()).assignment(node)
        if assignment != session.told:
            session.told = assignment
            session.down.append((self.state.index, assignment))

    def hear(self, name: str) -> None:
        """The oldest report under way arrives."""
        session = self.sessions.get(name)
        if session is not None and session.up:
            self.acks.put(_id(name), session.up.popleft())

    # Workers

    async def deliver(self, name: str, *, killed_after: int | None = None, twice: bool = False) -> None:
        """The oldest assignment under way arrives, and is carried out; or the worker is killed after so many
        changes of the kernel."""
        session = self.sessions.get(name)
        if session is None or not session.down:
            return
        index, assignment = session.down.popleft()
        worker = self.workers[name]
        worker.kernel.before = self._counting(killed_after)
        self._parts(name, assignment)
        try:
            for _ in range(1 + twice):
                await worker.take(assignment)
        except Killed:
            self.forgetful.add(name)
            self.breaks(name)
        else:
            self.forgetful.discard(name)
            self._meets(name, index, assignment)
            if index >= self.catching_up.get(name, 0):
                self.catching_up.pop(name, None)
            self._report(name)
        finally:
            worker.kernel.before = lambda _: self.check_kernels()

    def _counting(self, killed_after: int | None):  # type: ignore[no-untyped-def]
        left = [killed_after]

        def before(what: str) -> None:
            self.check_kernels()
            if left[0] is not None:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1

        return before

    def restart(self, name: str) -> None:
        """SIGKILL between two assignments."""
        self.workers[name].start()
        self.forgetful.add(name)
        self.breaks(name)

    def reboot(self, name: str) -> None:
        self.workers[name].reboot()
        self.forgetful.add(name)
        self._went_away(name)
        self.breaks(name)

    def _report(self, name: str) -> None:
        session, said = self.sessions.get(name), self.workers[name].said
        if session is not None and said is not None and said != session.said:
            session.said = said
            session.up.append(said)

    # What is to hold

    def scope(self) -> types.KeyScope:
        found = self.state.get(types.KeyScope, NET)
        assert found is not None
        return found

    def current(self) -> int:
        return rotation.number_of(self.scope(), types.EPOCH_ROLE_CURRENT)

    def check(self) -> None:
        self._check_state()
        self.check_kernels()

    def _check_state(self) -> None:
        scope = self.scope()
        numbers = [each.number for each in scope.epochs]
        _demand(len(numbers) <= MAX_LIVE_EPOCHS, f"{numbers} are live")
        _demand(numbers == sorted(set(numbers)), f"{numbers} do not ascend")
        roles = [each.role for each in scope.epochs]
        _demand(roles.count(types.EPOCH_ROLE_CURRENT) == 1, f"roles {roles}")
        held = self.state.get(store.ScopeSecrets, NET)
        assert held is not None
        _demand(set(held.secrets) == set(numbers), f"secrets of {set(held.secrets)} are kept for {numbers}")
        for number, secret in held.secrets.items():
            _demand(self._secrets.setdefault(number, secret) == secret, f"epoch {number} has two secrets")

    def holders(self) -> list[str]:
        """Names of those that are waited for."""
        ids = entitled(self.state, NET) & up(self.state.all(types.Node))
        return [name for name in self.workers if _id(name) in ids]

    def _check_switch(self) -> None:
        number = self.current()
        for name in self.holders():
            if name in self.catching_up:
                continue
            worker = self.workers[name]
            if name not in self.forgetful:
                _demand(number in worker.gossip.installed(NET)[0], f"{name} cannot hear epoch {number}")
            for other in self.holders():
                if other != name and (name, other) in self.acquainted:
                    received = self._inbound(name, other, number)
                    _demand(received is not None, f"{name} cannot receive epoch {number} of {other}")

    def check_kernels(self) -> None:
        for name, worker in self.workers.items():
            worker.kernel.transmit(_PACKETS, self._used)
            live = {split_spi(sa.spi)[2] for sa in worker.kernel.seen_sas()}
            _demand(len(live) <= MAX_LIVE_EPOCHS, f"{name} has SAs of epochs {sorted(live)} (mod 16)")
        steady = [name for name in self.holders() if name not in self.catching_up]
        for sender, receiver in permutations(steady, 2):
            self._check_pair(sender, receiver)

    def _check_pair(self, sender: str, receiver: str) -> None:
        policy = self._policy(sender, receiver)
        if policy is None or (receiver, sender) not in self.acquainted:
            return  # nothing leaves, or they are only getting to know each other
        outbound = self._sas(sender).get(SaId(self.workers[receiver].address, policy.spi))
        _demand(outbound is not None, f"{sender} has no SA for what it sends to {receiver}")
        inbound = self._sas(receiver).get(SaId(self.workers[receiver].address, policy.spi))
        same = outbound is not None and inbound is not None and outbound.fingerprint == inbound.fingerprint
        _demand(same, f"{sender} sends to {receiver} with an SA that it does not have: {policy.spi:#010x}")

    def _sas(self, name: str) -> dict[SaId, Sa]:
        return {sa.id: sa for sa in self.workers[name].kernel.seen_sas()}

    def _policy(self, sender: str, receiver: str) -> Policy | None:
        address = self.workers[receiver].address
        for each in self.workers[sender].kernel.seen_policies():
            if each.direction is Direction.OUT and each.destination == address:
                return each
        return None

    def _inbound(self, name: str, other: str, number: int) -> Sa | None:
        """The SA from the other with the key of that epoch."""
        index = list(self.workers).index(other) + 1
        found = self._sas(name).get(SaId(self.workers[name].address, spi(INDEX, index, number)))
        secret = EpochSecret(NET, number, SecretBytes(self._secrets[number]))
        key = esp_key(secret, _id(other), _id(name)).reveal()
        return found if found is not None and found.fingerprint == fingerprint(key) else None

    # To the end

    async def settles(self) -> None:
        """All faults are over: everybody comes back, and every rotation comes to its end."""
        for _ in range(_ROUNDS):
            before = self.state.index
            for name in self.workers:
                if name not in self.sessions:
                    self.register(name)
                self.push(name)
                await self.deliver(name)
                self.hear(name)
            due = self.plan()
            self.check()
            if self.state.index == before and not any(s.down or s.up for s in self.sessions.values()):
                scope = self.scope()
                if (
                    scope.phase == rotation.STABLE
                    and not scope.again
                    and len(self.sessions) == len(self.workers)
                ):
                    self.check_at_rest()
                    return
                self.now = max(self.now, due or self.now)
        raise Violated(f"no end: {self.scope()}")

    def check_at_rest(self) -> None:
        """One epoch everywhere: one SA in each direction between any two, and every policy names it."""
        _demand(
            [each.number for each in self.scope().epochs] == [self.current()], "more than one epoch is live"
        )
        ids = entitled(self.state, NET)
        for name, worker in self.workers.items():
            others = [each for each in self.workers if each != name and _id(each) in ids]
            pairs = 2 * len(others) if _id(name) in ids else 0
            _demand(len(worker.kernel.sas) == pairs, f"{name} has {len(worker.kernel.sas)} SAs, not {pairs}")
            for other in others if pairs else ():
                _demand(self._inbound(name, other, self.current()) is not None, f"{name} hears {other}")
                policy = self._policy(name, other)
                used = split_spi(policy.spi)[2] if policy is not None else None
                _demand(used == self.current() % 16, f"{name} sends to {other} with epoch {used}")


def _id(name: str) -> str:
    return f"node-{name}"


def _task(name: str) -> types.Task:
    return types.Task(
        meta=types.Meta(id=f"task-{name}"),
        node_id=_id(name),
        state=types.TASK_STATE_RUNNING,
        desired_state=types.TASK_STATE_RUNNING,
        state_at=stamp(local.NOW),
        spec=types.ServiceSpec(name="web", image="host", networks=[NET]),
    )
