"""The six source roots are one namespace package, and stay one."""

from __future__ import annotations

from pathlib import Path

from swarmnet.api.v1 import ca_pb2, control_pb2, dispatcher_pb2, local_pb2, options_pb2, raft_pb2

ROOT = Path(__file__).parents[2]
ROOTS = ("proto", "core", "client", "manager", "worker", "cli")


def test_no_init_file_hides_the_other_roots() -> None:
    assert [str(ROOT / root / "swarmnet") for root in ROOTS if not (ROOT / root / "swarmnet").is_dir()] == []
    strays = [root for root in ROOTS if (ROOT / root / "swarmnet" / "__init__.py").exists()]
    assert strays == []


def test_every_rpc_says_who_may_call_it() -> None:
    silent = []
    for file in (ca_pb2, control_pb2, dispatcher_pb2, local_pb2, raft_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                roles = method.GetOptions().Extensions[options_pb2.roles]
                if not (roles.manager or roles.worker or roles.client or roles.anyone):
                    silent.append(method.full_name)
    assert silent == []


def test_workers_may_call_nothing_of_the_control_api() -> None:
    control = control_pb2.DESCRIPTOR.services_by_name["Control"]
    open_to_workers = [
        method.name
        for method in control.methods
        if method.GetOptions().Extensions[options_pb2.roles].worker
        or method.GetOptions().Extensions[options_pb2.roles].anyone
    ]
    assert open_to_workers == []
