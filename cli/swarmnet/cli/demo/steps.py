"""The main job, step by step: from six hosts to an encrypted network that carries a service."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from swarmnet.cli.demo.pinger import Pinger
from swarmnet.cli.demo.stage import Miss, Stage, Task, check, wait_for
from swarmnet.cli.demo.wire import MARKER, Capture
from swarmnet.core.ids import ID_LENGTH
from swarmnet.core.limits import ESP_ICV_BITS, ESP_KEY_BYTES, ESP_SALT_BYTES

NETWORK: Final = "my-multi-host-network"
_FETCH: Final = (
    "import sys,urllib.request as r;print(r.urlopen('http://'+sys.argv[1],timeout=10).read().decode())"
)
_PINGS_PER_S: Final = 200
_SA: Final = re.compile(
    r"(?P<id>src \S+ dst \S+\s+proto esp spi \S+).*?"
    r"aead rfc4106\(gcm\(aes\)\) 0x(?P<key>[0-9a-f]+) \(\d+ bits\) (?P<icv>\d+)",
    re.DOTALL,
)

Facts = list[str]


@dataclass(frozen=True, slots=True)
class Step:
    title: str
    act: Callable[[Stage, Facts], None]


def hosts_up(stage: Stage, facts: Facts) -> None:
    """Every daemon of the lab answers, in no swarm yet."""
    for host in stage.lab.hosts:
        daemon = f"swarmnet-{host.kind}" if host.kind != "bare" else "(no swarmnet)"
        stage.screen.output(f"{host.name:<9} {host.address:<13} {daemon}")
    facts.append(f"{len(stage.lab.hosts)} hosts on one underlay, 10.133.0.0/24")


def init(stage: Stage, facts: Facts) -> None:
    said = stage.figure("init_s", _timed(lambda: stage.show("swarmnet swarm init", quiet=True)))
    facts.append(f"m1 leads a swarm of one after {said:.2f} s")


def join(stage: Stage, facts: Facts) -> None:
    taken = []
    for kind in ("manager", "worker"):
        token = stage.ask(f"swarmnet swarm join-token -q {kind}").strip()
        joining = [host for host in stage.lab.hosts if host.kind == kind and host.name != stage.manager]
        taken += [_join(stage, host.name, token) for host in joining]
    stage.figures["join_s"] = [round(each, 3) for each in taken]
    wait_for(lambda: _ready(stage) == 6, 60, "not all six nodes are ready")
    stage.show("swarmnet node ls")
    facts.append(f"3 managers and 3 workers ready, every join within {max(taken):.2f} s")


def _join(stage: Stage, host: str, token: str) -> float:
    typed = f"swarmnet swarm join --token {token} {stage.lab.host('m1').address}:2378"
    shown = typed.replace(token, token[:14] + "…")
    return _timed(lambda: stage.show(typed, host=host, shown_as=shown, secret=token))


def create_network(stage: Stage, facts: Facts) -> None:
    said: Facts = []
    command = f"swarmnet network create --driver overlay --opt encrypted {NETWORK}"
    taken = stage.timed("network_create_s", lambda: said.append(stage.show(command)))
    network_id = said[0].strip()
    check(
        bool(re.fullmatch(rf"[0-9a-z]{{{ID_LENGTH}}}", network_id)), f"{network_id!r} is no 25-character id"
    )
    facts.append(f"an id of {len(network_id)} characters after {taken:.2f} s")


def create_service(stage: Stage, facts: Facts) -> None:
    page = stage.lab.folder / "page" / "index.html"
    page.parent.mkdir()
    page.write_text(f"{MARKER.decode()}: hello from a task\n")
    server = f"python3 -m http.server 80 --directory {page.parent}"
    command = f"swarmnet service create --name web --replicas 3 --network {NETWORK} host {server}"
    taken = stage.timed("service_converged_s", lambda: stage.watch(command))
    stage.show("swarmnet service ps web")
    tasks = stage.tasks("web")
    check(len(tasks) == 3, f"{len(tasks)} of 3 tasks run")
    check(len({task.host.name for task in tasks}) == 3, "the tasks are not spread, one on each worker")
    stage.figure("tasks", len(tasks))
    facts.append(f"3 tasks, one on each worker, after {taken:.2f} s")


def fetch_page(stage: Stage, facts: Facts) -> None:
    """Seen from the underlay's bridge: only ESP, and nothing that can be read."""
    tasks = stage.tasks("web")
    pairs = list(zip(tasks, [*tasks[1:], tasks[0]], strict=True))
    ports = frozenset(host.name for host in stage.lab.hosts)
    with Capture("/proc/self/ns/net", ports) as capture:
        taken = _timed(lambda: _fetch_when_ready(stage, *pairs[0], show=True))
        for client, server in pairs[1:]:
            _fetch_when_ready(stage, client, server)
    seen = capture.counts
    stage.screen.output(f"on the underlay: {seen.esp} ESP packets, {seen.plaintext} plaintext VXLAN packets")
    for name, value in (("page_s", taken), ("pages", len(pairs)), ("esp_packets", seen.esp),
                        ("plaintext_packets", seen.plaintext)):  # fmt: skip
        stage.figure(name, value)
    check(seen.esp > 0, "the capture saw no ESP packet")
    check(seen.plaintext == 0, f"{seen.plaintext} plaintext packets on the underlay")
    facts.append(f"{len(pairs)} pages between {len(tasks)} tasks; {seen.esp} ESP packets, 0 in clear")


def _fetch_when_ready(stage: Stage, client: Task, server: Task, *, show: bool = False) -> None:
    argv = ["python3", "-c", _FETCH, server.address]
    if show:
        stage.screen.command(f"{client.name} on {client.host.name}", f"fetch http://{server.address}/")
    last: list[str] = [""]

    def fetched() -> bool:
        result = stage.in_task(client, argv)
        last[0] = result.stdout + result.stderr
        return result.returncode == 0 and MARKER.decode() in result.stdout

    wait_for(fetched, 20, f"{client.name} gets no page from {server.name}")
    if show:
        stage.screen.output(last[0])


def read_associations(stage: Stage, facts: Facts) -> None:
    """AES-256-GCM on every host. The keys are read, measured, compared, and not shown."""
    keys: dict[str, str] = {}
    total = 0
    for host in stage.lab.of_kind("worker"):
        text = "\n" + stage.lab.run(host.name, ["ip", "-s", "xfrm", "state"]).stdout
        associations = [f"src {part}" for part in text.split("\nsrc ")[1:]]
        check(len(associations) >= 4, f"{host.name} has {len(associations)} SAs, not 2 for each of 2 peers")
        keys |= dict(_measure(each, host.name) for each in associations)
        total += len(associations)
        if host.name == "w1":
            stage.screen.command(host.name, "ip xfrm state")
            first = "\n".join(associations[0].splitlines()[:4])
            stage.screen.output(re.sub(r"0x[0-9a-f]{72}", "0x… (not shown)", first))
    check(len(set(keys.values())) == len(keys), "two SAs have the same key")
    stage.figure("security_associations", total)
    facts.append(
        f"{total} SAs on 3 hosts, {len(keys)} directions with a key each: AES-256-GCM, tag 128 bits, ESN"
    )


def _measure(association: str, host: str) -> tuple[str, str]:
    """What identifies an SA, and its key; Miss unless it is AES-256-GCM with a full tag and ESN."""
    found = _SA.search(association)
    if found is None:
        raise Miss(f"an SA on {host} is not AES-GCM")
    bits = len(found["key"]) * 4 - ESP_SALT_BYTES * 8
    check(bits == ESP_KEY_BYTES * 8, f"an SA on {host} has a key of {bits} bits")
    check(int(found["icv"]) == ESP_ICV_BITS, f"an SA on {host} has a tag of {found['icv']} bits")
    check("flag esn" in association, f"an SA on {host} has no extended sequence numbers")
    return found["id"], found["key"]


def verify_encryption(stage: Stage, facts: Facts) -> None:
    """Every pair of hosts, in both directions."""
    said = stage.show(f"swarmnet encryption verify {NETWORK}")
    proved = [line for line in said.splitlines() if line.endswith("encrypted")]
    stage.figure("directions_proved_encrypted", len(proved))
    check(len(proved) == 6, f"{len(proved)} of 6 directions between 3 hosts are proved to be encrypted")
    facts.append("6 of 6 directions proved: encrypted and decrypted by SAs, on the wire only ESP")


def rotate_keys(stage: Stage, facts: Facts) -> None:
    first, second = stage.tasks("web")[:2]
    epoch = _epoch(stage)
    stage.screen.command(
        f"{first.name} on {first.host.name}", f"ping -i {1 / _PINGS_PER_S} {second.address} &"
    )
    with Pinger(stage.namespace_of(first), second.address, _PINGS_PER_S) as pings:
        taken = stage.timed("rotation_s", lambda: stage.watch(f"swarmnet key rotate --network {NETWORK}"))
    rate = pings.sent / pings.elapsed_s
    stage.figure("rotation_pings", pings.sent)
    stage.figure("rotation_pings_per_s", rate)
    stage.figure("rotation_pings_lost", pings.lost)
    check(rate > 0.9 * _PINGS_PER_S, f"only {rate:.0f} pings a second were sent")
    check(pings.lost == 0, f"{pings.lost} of {pings.sent} pings lost during the rotation")
    check(_epoch(stage) > epoch, "the network's epoch is still the old one")
    facts.append(
        f"epoch {epoch} → {_epoch(stage)} in {taken:.1f} s; {pings.sent} pings at {rate:.0f}/s, 0 lost"
    )


def kill_leader(stage: Stage, facts: Facts) -> None:
    leader = next(
        row["Hostname"] for row in stage.rows("swarmnet node ls") if row["ManagerStatus"] == "Leader"
    )
    stage.manager = next(host.name for host in stage.lab.of_kind("manager") if host.name != leader)
    stage.screen.command(leader, "kill -9 $(pidof swarmnet-manager)")
    stage.lab.kill_daemon(leader)
    command = f"swarmnet service create --name second --replicas 2 --network {NETWORK} host sleep infinity"
    taken = stage.timed("after_leader_killed_s", lambda: stage.watch(command))
    running = stage.tasks("second")
    check(len(running) == 2, f"{len(running)} of 2 tasks of the second service run")
    stage.show("swarmnet service ls")
    facts.append(f"{leader} killed; a service of 2 was created and ran {taken:.2f} s later")


def _ready(stage: Stage) -> int:
    return sum(row["Status"] == "Ready" for row in stage.rows("swarmnet node ls"))


def _epoch(stage: Stage) -> int:
    return next(int(row["Epoch"]) for row in stage.rows("swarmnet key ls") if row["Name"] == NETWORK)


def _timed(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


MAIN_JOB: Final[Sequence[Step]] = (
    Step("Six hosts, an attacker and a stranger, each with a network namespace of its own", hosts_up),
    Step("The first manager makes a swarm", init),
    Step("The others join it by tokens", join),
    Step("An encrypted network", create_network),
    Step("A service of three on it", create_service),
    Step("Tasks on different hosts fetch pages from each other; the underlay sees ESP", fetch_page),
    Step("The kernel's security associations", read_associations),
    Step("Every pair of hosts proves that its packets are encrypted", verify_encryption),
)
UNDER_STRESS: Final[Sequence[Step]] = (
    Step("Keys rotate under 200 pings a second", rotate_keys),
    Step("The leading manager is killed", kill_leader),
)
