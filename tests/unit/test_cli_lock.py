"""`swarmnet swarm unlock` and `unlock-key`, and --autolock: what they print, send and refuse."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from tests.unit.fake_swarm import Host, Result, make_host

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import local_pb2
from swarmnet.core.errors import BadUnlockKey, FailedPrecondition, SwarmLocked

KEY = "SWMKEY-1-" + "k" * 43


@pytest.fixture
def host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    yield from make_host(tmp_path, capsys, monkeypatch)


def test_the_unlock_key_comes_from_stdin(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = host.manager()
    fake.answers["Unlock"] = [local_pb2.UnlockResponse()]
    monkeypatch.setattr("sys.stdin", StringIO(f"{KEY}\nmore\n"))
    assert host.swarmnet("swarm", "unlock") == Result(0, "", "")
    assert fake.requests["Unlock"] == [local_pb2.UnlockRequest(unlock_key=KEY)]


def test_on_a_terminal_it_is_asked_for_without_echo(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = host.manager()
    fake.answers["Unlock"] = [BadUnlockKey("swarm could not be unlocked: invalid key provided", hint="Try.")]
    asked = []

    def prompt(text: str, *, hide_input: bool, err: bool) -> str:
        asked.append((text, hide_input, err))
        return f" {KEY}"

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.prompt", prompt)
    result = host.swarmnet("swarm", "unlock")
    assert asked == [("Please enter unlock key", True, True)]
    assert (result.status, result.err) == (
        1,
        "Error: swarm could not be unlocked: invalid key provided\nTry.\n",
    )
    assert fake.requests["Unlock"] == [local_pb2.UnlockRequest(unlock_key=KEY)]


def test_a_key_is_never_an_argument(host: Host) -> None:
    fake = host.manager()
    assert host.swarmnet("swarm", "unlock", KEY).status == 1
    assert fake.requests == {}


def test_the_key_is_printed_with_what_to_do_with_it(host: Host) -> None:
    fake = host.manager()
    fake.answers["GetUnlockKey"] = [control.GetUnlockKeyResponse(unlock_key=KEY, behind=["m3", "m2"])]
    assert host.swarmnet("swarm", "unlock-key", "-q").out == f"{KEY}\n"
    printed = host.swarmnet("swarm", "unlock-key").out
    assert printed.splitlines() == [
        "To unlock a swarm manager after it restarts, run the `swarmnet swarm unlock`",
        "command and provide the following key:",
        "",
        f"    {KEY}",
        "",
        "Remember to store this key in a password manager, since without it you",
        "will not be able to restart the manager.",
        "",
        "Not there yet: m2, m3. They need what they needed before until",
        "`swarmnet node ls --format '{{.Hostname}} {{.Lock}}'` says that they are current.",
    ]
    fake.answers["UpdateCluster"] = [control.GetClusterResponse()]
    rotated = host.swarmnet("swarm", "unlock-key", "--rotate").out
    assert rotated == "Successfully rotated manager unlock key.\n\n" + printed
    assert fake.requests["UpdateCluster"] == [control.UpdateClusterRequest(rotate_unlock_key=True)]


def test_no_unlock_key_is_set(host: Host) -> None:
    host.manager().answers["GetUnlockKey"] = [FailedPrecondition("no unlock key is set", hint="Set one.")]
    result = host.swarmnet("swarm", "unlock-key")
    assert (result.status, result.out, result.err) == (1, "", "Error: no unlock key is set\nSet one.\n")


@pytest.mark.parametrize(
    ("option", "sent"), [("--autolock", True), ("--autolock=true", True), ("--autolock=false", False)]
)
def test_the_setting_is_given_as_docker_has_it(host: Host, option: str, sent: bool) -> None:
    fake = host.manager()
    fake.answers["UpdateCluster"] = [control.GetClusterResponse()]
    fake.answers["GetUnlockKey"] = [control.GetUnlockKeyResponse(unlock_key=KEY)]
    printed = host.swarmnet("swarm", "update", option).out
    assert printed.startswith("Swarm updated.\n")
    assert (KEY in printed) is sent
    assert fake.requests["UpdateCluster"] == [control.UpdateClusterRequest(autolock=sent)]


def test_a_new_swarm_can_be_autolocked(host: Host) -> None:
    fake = host.manager()
    fake.answers["Init"] = [local_pb2.InitResponse(node_id="n", worker_token="t", address="10.0.0.1:2378")]
    fake.answers["GetUnlockKey"] = [control.GetUnlockKeyResponse(unlock_key=KEY)]
    assert f"\n    {KEY}\n" in host.swarmnet("swarm", "init", "--autolock").out
    assert KEY not in host.swarmnet("swarm", "init").out
    assert [each.autolock for each in fake.requests["Init"]] == [True, False]


def test_a_locked_manager_says_how_it_is_unlocked(host: Host) -> None:
    host.manager().answers["ListNetworks"] = [SwarmLocked()]
    result = host.swarmnet("network", "ls")
    assert result.status == 1
    assert result.err == (
        "Error: Swarm is encrypted and needs to be unlocked before it can be used. Please use "
        '"swarmnet swarm unlock" to unlock it.\n'
    )
