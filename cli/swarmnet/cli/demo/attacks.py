"""What outsiders try, and what they get: nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from swarmnet.cli.demo.stage import Stage, check, wait_for
from swarmnet.cli.demo.steps import NETWORK, Facts, Step
from swarmnet.cli.demo.wire import Capture, inject

ATTACKER: Final = "attacker"
"""A host without swarmnet."""
STRANGER: Final = "stranger"
"""A host with a swarmnet-worker that nobody invited."""
_DROPS: Final = (
    r"meta ipsec missing counter packets (\d+)",
    r"^\s*(\d+) +\d+ DROP .*udp.*policy match dir in",
    r"^XfrmInTmplMismatch\s+(\d+)",
)
"""How nftables, iptables and XFRM write down what they dropped."""
_INJECTED: Final = 10
"""Packets of each kind: from the attacker's own address, and with another worker's as their source."""


def refuse_outsiders(stage: Stage, facts: Facts) -> None:
    """A process on a worker that is no task; a host without a token, and one with a wrong token."""
    said = stage.show(f"swarmnet run --network {NETWORK} host ping web", host="w1", expect=1)
    promised = (
        f"swarm-scoped network ({NETWORK}) is not compatible with `swarmnet create` or `swarmnet run`. "
        "This network can only be used by a swarm service."
    )
    check(promised in said, "the refusal has another text")
    check("service create" in said, "the refusal does not say what to do instead")
    _refuse_join(stage)
    facts.append("a process on a member, a host without a token and one with a wrong token: all refused")


def _refuse_join(stage: Stage) -> None:
    host = stage.lab.host(STRANGER)
    stage.lab.start_daemon(host, "worker")
    socket = stage.lab.run_dir(STRANGER) / "worker.sock"
    wait_for(socket.exists, 30, "the stranger's swarmnet-worker does not start")
    manager = f"{stage.lab.host('m1').address}:2378"
    genuine = stage.ask("swarmnet swarm join-token -q worker").strip()
    authentic_part, _, secret = genuine.rpartition("-")
    wrong = f"{authentic_part}-{'0' * len(secret)}"
    for token, shown in (("letmein", "letmein"), (wrong, f"SWMTKN-1-…-{'0' * len(secret)}")):
        command = "swarmnet swarm join --token {} " + manager
        stage.show(
            command.format(token), host=STRANGER, expect=1, shown_as=command.format(shown), secret=token
        )
    stage.lab.kill_daemon(STRANGER)
    names = [row["Hostname"] for row in stage.rows("swarmnet node ls")]
    check(STRANGER not in names, "the stranger is a node of the swarm")


def inject_plaintext(stage: Stage, facts: Facts) -> None:
    """By an attacker who knows addresses, port and VNI, but no key. That packets reach the host is seen."""
    tasks = stage.tasks("web")
    victim, neighbour = tasks[0], tasks[1]
    target = stage.target(NETWORK, victim, neighbour)
    attacker = stage.lab.network_namespace(stage.lab.host(ATTACKER))
    before = _dropped(stage, victim.host.name)
    at_host = Capture(stage.lab.network_namespace(victim.host), frozenset({"eth0"}))
    in_task = Capture(stage.namespace_of(victim), frozenset({"eth0"}))
    stage.screen.command(
        ATTACKER,
        f"send {2 * _INJECTED} VXLAN packets for {victim.name} to {target.host_address}:{target.port}",
    )
    with at_host, in_task:
        inject(attacker, target, _INJECTED)
        inject(attacker, target, _INJECTED, spoofed_source=neighbour.host.address)
        wait_for(
            lambda: at_host.counts.marked >= 2 * _INJECTED, 10, "the injected packets do not reach the host"
        )
        wait_for(lambda: _dropped(stage, victim.host.name) - before >= 2 * _INJECTED, 10,
                 "the kernel did not count the injected packets as dropped")  # fmt: skip
    dropped = _dropped(stage, victim.host.name) - before
    stage.figure("injected", 2 * _INJECTED)
    stage.figure("injected_reached_host", at_host.counts.marked)
    stage.figure("injected_dropped", dropped)
    stage.figure("injected_delivered", in_task.counts.marked)
    check(in_task.counts.marked == 0, f"{in_task.counts.marked} injected packets arrived in the task")
    facts.append(
        f"{at_host.counts.marked} reached the host, the kernel dropped {dropped}, 0 arrived in the task"
    )


def _dropped(stage: Stage, host: str) -> int:
    """Packets that either guard of the host dropped on the way in: the firewall, or XFRM for want of ESP."""
    counters = "nft list table inet swarmnet; iptables-legacy -w -nvxL INPUT; cat /proc/net/xfrm_stat"
    text = stage.lab.run(host, ["sh", "-c", counters]).stdout
    return sum(int(count) for pattern in _DROPS for count in re.findall(pattern, text, re.MULTILINE))


OUTSIDERS: Final[Sequence[Step]] = (Step("Outsiders try to join", refuse_outsiders),)
INJECTION: Final[Sequence[Step]] = (Step("The attacker sends plaintext VXLAN to a task", inject_plaintext),)
