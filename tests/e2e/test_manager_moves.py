"""A manager that is started again with another address: other managers, workers and operators find it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.island import Host, Island, eventually, island

from swarmnet.api.v1 import local_pb2


def move(place: Island, host: Host, address: str) -> None:
    """Its old address is gone."""
    host.kill()
    place.ip(f"addr del {host.address}/24 dev shore")
    place.ip(f"addr add {address}/24 dev shore")
    host.address = address
    host.start()


def inspected(asked: Host, name: str) -> dict[str, str]:
    return dict(json.loads(asked.ok("node", "inspect", name))[0]["ManagerStatus"])


def test_a_moved_manager_is_found_by_all(tmp_path: Path) -> None:
    with island(tmp_path) as place:
        first = place.host("manager")
        first.ok("swarm", "init")
        second, third = (place.joined("manager", first) for _ in range(2))
        worker = place.joined("worker", first)
        node_id = second.daemon().call(lambda local: local.GetInfo, local_pb2.GetInfoRequest()).node_id
        move(place, second, "10.9.9.77")
        eventually(lambda: inspected(first, node_id)["Reachability"] == "reachable")
        eventually(lambda: inspected(first, node_id)["Addr"] == "10.9.9.77:2377")
        assert inspected(second, node_id)["BootstrapAddr"] == "10.9.9.77:2378"
        eventually(lambda: "10.9.9.77:2377" in known(worker))
        assert len(known(worker)) == 3

        first.kill()
        third.kill()
        third.start()
        eventually(lambda: connected(worker) and second.swarmnet("node", "ls").status == 0)
        first.start()
        added = place.joined("worker", second)
        assert "10.9.9.77:2377" in known(added)


def known(worker: Host) -> list[str]:
    return list(worker.daemon().call(lambda local: local.GetInfo, local_pb2.GetInfoRequest()).managers)


def connected(worker: Host) -> str:
    return str(worker.daemon().call(lambda local: local.GetInfo, local_pb2.GetInfoRequest()).manager_id)
