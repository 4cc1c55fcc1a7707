"""Labs: what they give back, what they leave behind (nothing), and what they refuse."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.e2e.labs import SWARMNET, eventually, running

BARE = ("--managers", "0", "--workers", "0", "--host", "alice", "--host", "bob")


def lab_run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"TMPDIR": str(tmp_path)}
    argv = [SWARMNET, "lab", "run", "--kernel", "host", *arguments]
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 128 + 9)])
def test_gives_back_the_commands_exit_status(tmp_path: Path, script: str, status: int) -> None:
    assert lab_run(tmp_path, *BARE, "--", "sh", "-c", script).returncode == status


def test_hosts_know_and_reach_each_other_by_name(tmp_path: Path) -> None:
    script = "swarmnet lab exec alice -- hostname && swarmnet lab exec alice -- ping -c 1 bob"
    ran = lab_run(tmp_path, *BARE, "--", "sh", "-c", script)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("alice\n")
    assert "1 received" in ran.stdout


def test_every_host_has_directories_of_its_own(tmp_path: Path) -> None:
    script = "swarmnet lab exec alice -- touch /run/swarmnet/mine; swarmnet lab exec bob -- ls /run/swarmnet"
    assert lab_run(tmp_path, *BARE, "--", "sh", "-c", script).stdout == ""


def test_a_swarm_leaves_one_log_for_each_daemon_and_nothing_else_twice_in_a_row(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for _ in range(2):
        options = ("--managers", "1", "--workers", "1", "--logs", str(logs))
        ran = lab_run(tmp_path, *options, "--", "swarmnet", "node", "ls", "-q")
        assert ran.returncode == 0, ran.stderr
        assert len(ran.stdout.split()) == 2
    assert sorted(each.name for each in logs.iterdir()) == ["m1.log", "w1.log"]
    assert [each.name for each in tmp_path.iterdir()] == ["logs"]


def test_a_killed_lab_takes_all_its_processes_along_and_the_next_start_is_clean(tmp_path: Path) -> None:
    env = os.environ | {"TMPDIR": str(tmp_path)}
    argv = [
        SWARMNET,
        "lab",
        "run",
        "--kernel",
        "host",
        *BARE,
        "--",
        "sh",
        "-c",
        "echo up; exec sleep infinity",
    ]
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        first = next(tmp_path.glob("swarmnet-lab-*/root.pid")).read_text()
        process.send_signal(signal.SIGKILL)
    eventually(lambda: not Path("/proc", first).exists(), "the lab's first process ends")
    assert list(tmp_path.glob("swarmnet-lab-*")) != []
    assert lab_run(tmp_path, *BARE, "--", "true").returncode == 0
    assert list(tmp_path.glob("swarmnet-lab-*")) == []


def test_a_failed_command_leaves_the_logs_and_says_where(tmp_path: Path) -> None:
    ran = lab_run(tmp_path, "--managers", "1", "--workers", "0", "--", "false")
    assert ran.returncode == 1
    folder = Path(ran.stderr.splitlines()[-1].removeprefix("logs: "))
    assert (folder / "m1.log").exists()


def test_runs_commands_in_a_host_from_outside(tmp_path: Path) -> None:
    with running(tmp_path, *BARE) as lab:
        env = os.environ | {"SWARMNET_LAB": str(lab.file)}
        argv = [SWARMNET, "lab", "exec", "bob", "--", "sh", "-c", "hostname; exit 3"]
        ran = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        assert (ran.stdout, ran.returncode) == ("bob\n", 3)
        assert lab.run("alice", ["hostname"]).stdout == "alice\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lab", "exec", "alice", "--", "true"), "this is not inside a lab"),
        (("lab", "run", "--host", "m1", "--", "true"), "host name 'm1' is taken or not a name"),
        (("lab", "run", "--host", "a b", "--", "true"), "host name 'a b' is taken or not a name"),
        (("lab", "run", "--managers", "99", "--", "true"), "at most 10 managers"),
    ],
)
def test_refuses_what_it_cannot_do(arguments: tuple[str, ...], said: str) -> None:
    kernel = ("--kernel", "host") if arguments[1] == "run" else ()
    argv = [SWARMNET, *arguments[:2], *kernel, *arguments[2:]]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_user_mode_linux_runs_a_command_on_the_same_files(tmp_path: Path) -> None:
    script = f"uname -r; echo seen > {tmp_path}/file; echo err >&2; test -t 1 || exit 9"
    argv = [SWARMNET, "lab", "kernel", "--kernel", "uml", "--", "sh", "-c", script]
    ran = subprocess.run(
        argv, env=os.environ | {"TMPDIR": "/tmp"}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 9
    assert ran.stdout.strip() != os.uname().release
    assert ran.stderr == "err\n"
    assert (tmp_path / "file").read_text() == "seen\n"
