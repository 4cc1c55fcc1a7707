"""Certificates that last for seconds: real daemons renew them again and again, or come back too late."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from tests.e2e.island import Host, Island, eventually, island
from tests.e2e.test_certificates import RECONNECTS

LIFETIME_S: Final = 20
RENEWALS: Final = 3


@pytest.fixture
def shore(tmp_path: Path) -> Iterator[Island]:
    with island(tmp_path) as made:
        made.manager = "tests.e2e.short_lived"
        try:
            yield made
        finally:
            for host in made.hosts:
                if host.kind == "worker":
                    host.swarmnet("swarm", "leave")  # its tasks would live on


def said(host: Host, since: int = 0) -> list[str]:
    return (host.folder / "log").read_bytes()[since:].decode().splitlines()


def renewals(host: Host) -> int:
    return sum('event="certificate renewed"' in line for line in said(host))


def tasks(manager: Host) -> set[str]:
    listed = manager.ok("service", "ps", "web", "--format", "{{.ID}} {{.CurrentState}}")
    return {line.split()[0] for line in listed.splitlines() if " Running" in line}


def sleepers() -> set[str]:
    """Process id and start time of every task."""
    listing = ["ps", "-C", "sleep", "-o", "pid=,lstart=,args="]
    found = subprocess.run(listing, check=True, capture_output=True, text=True)
    return {line for line in found.stdout.splitlines() if line.endswith("sleep 7654321")}


def test_they_are_renewed_in_time_and_no_stream_breaks(shore: Island) -> None:
    first = shore.host("manager")
    first.ok("swarm", "init", "--cert-expiry", f"{LIFETIME_S}s")
    managers = [first, shore.joined("manager", first), shore.joined("manager", first)]
    worker = shore.joined("worker", managers[1])
    first.ok("service", "create", "-q", "--name", "web", "--replicas", "2", "host", "sleep", "7654321")
    running, processes = tasks(first), sleepers()
    assert len(running) == 2
    assert len(processes) == 2
    daemons = [*managers, worker]
    began = {host.address: len((host.folder / "log").read_bytes()) for host in daemons}
    presented: set[int] = set()

    def renewed_often() -> bool:
        presented.add(_serial(first))
        return min(map(renewals, daemons)) >= RENEWALS

    eventually(renewed_often, patience_s=5 * LIFETIME_S)
    for host in daemons:
        lines = said(host, began[host.address])
        broken = [line for line in lines if any(f'event="{each}"' in line for each in RECONNECTS)]
        assert broken == [], host.address
        assert not [line for line in lines if "not renewed or reported" in line]
    assert len(presented) >= RENEWALS
    assert (tasks(first), sleepers()) == (running, processes)
    listed = json.loads(first.ok("node", "inspect", *first.ok("node", "ls", "-q").split()))
    assert [each["Status"]["State"] for each in listed] == ["ready"] * 4

    _come_back_too_late(worker, managers[2])


def _serial(manager: Host) -> int:
    """Of what the manager shows at its port of the API."""
    script = f"import ssl; print(ssl.get_server_certificate(({manager.address!r}, 2378)))"
    shown = subprocess.run(
        manager.island.inside([sys.executable, "-c", script]), capture_output=True, text=True, check=True
    )
    return x509.load_pem_x509_certificate(shown.stdout.encode()).serial_number


def _come_back_too_late(worker: Host, manager: Host) -> None:
    """A worker has to join again; a manager makes itself a certificate, as it has the root's key."""
    began = len((manager.folder / "log").read_bytes())
    for host in (worker, manager):
        host.kill()
    for host in (worker, manager):
        _wait_until_expired(host)
        host.start()
    eventually(lambda: "this node's certificate expired at 20" in worker.ok("info"))
    assert "`swarmnet swarm leave` here and join again" in worker.ok("info")
    worker.ok("swarm", "leave")
    assert sleepers() == set()
    manager.island.hosts[0].ok("service", "rm", "web")
    token = manager.island.hosts[0].ok("swarm", "join-token", "-q", "worker").strip()
    worker.ok("swarm", "join", "--token", token, manager.island.hosts[0].bootstrap)
    assert any("certificate made anew from the state" in line for line in said(manager, began))
    eventually(
        lambda: manager.ok("node", "ls", "--format", "{{.ManagerStatus}}").split().count("Reachable") == 2
    )


def _wait_until_expired(host: Host) -> None:
    pem = (host.folder / "state" / "certificates" / "node.pem").read_bytes()
    end = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    while (left := (end - datetime.now(UTC)).total_seconds()) > -1:
        time.sleep(max(left, 0) + 1)
