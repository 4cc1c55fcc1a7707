"""Progress: tasks that converge and keys that rotate, followed by events."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.unit.fake_swarm import BREAK, FakeSwarm, Host, make_host

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.cli.convergence import Convergence
from swarmnet.cli.follow import Screen
from swarmnet.core.errors import Unavailable

SERVICE_ID = "s" * 25
UPDATED, REMOVED = control.WatchEvent.UPDATED, control.WatchEvent.REMOVED


@pytest.fixture
def host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    monkeypatch.setattr("swarmnet.cli.follow.RETRY_DELAYS_S", (0.0, 0.0, 0.0))
    yield from make_host(tmp_path, capsys, monkeypatch)


def _view(
    replicas: int, mode: types.ServiceMode.ValueType = types.SERVICE_MODE_REPLICATED
) -> control.ServiceView:
    spec = types.ServiceSpec(name="web", mode=mode, replicas=replicas)
    service = types.Service(meta=types.Meta(id=SERVICE_ID), spec=spec)
    return control.ServiceView(service=service, desired=replicas)


def _task(
    id_: str, slot: int, state: types.TaskState.ValueType, message: str = "", *, live: bool = True
) -> types.Task:
    desired = types.TASK_STATE_RUNNING if live else types.TASK_STATE_SHUTDOWN
    task = types.Task(service_id=SERVICE_ID, slot=slot, state=state, message=message, desired_state=desired)
    task.meta.id = id_
    task.meta.created_at.FromSeconds(int(id_.lstrip("t")))
    return task


def _event(task: types.Task, action: control.WatchEvent.Action.ValueType = UPDATED) -> control.WatchEvent:
    return control.WatchEvent(action=action, task=task)


def _with_service(host: Host, replicas: int, *tasks: types.Task) -> FakeSwarm:
    fake = host.manager()
    fake.answers["CreateService"] = [control.CreateServiceResponse(id=SERVICE_ID, warnings=["slow"])]
    fake.answers["GetService"] = [_view(replicas)]
    fake.answers["ListTasks"] = [control.ListTasksResponse(tasks=tasks)]
    return fake


def test_create_shows_each_step_in_a_line_until_all_run(host: Host) -> None:
    fake = _with_service(host, 2, _task("t1", 1, types.TASK_STATE_RUNNING))
    fake.events.put(_event(_task("t2", 2, types.TASK_STATE_PENDING, "no node has the image img")))
    fake.events.put(_event(types.Task(service_id="another", state=types.TASK_STATE_FAILED)))
    fake.events.put(_event(_task("t2", 2, types.TASK_STATE_PREPARING)))
    fake.events.put(_event(_task("t2", 2, types.TASK_STATE_RUNNING)))
    result = host.swarmnet("service", "create", "--name", "web", "--replicas", "2", "img")
    assert (result.status, result.err) == (0, "Warning: slow\n")
    assert result.out.splitlines() == [
        SERVICE_ID,
        "overall progress: 1 out of 2 tasks",
        "1/2: running",
        "2/2",
        "2/2: pending: no node has the image img",
        "2/2: preparing",
        "overall progress: 2 out of 2 tasks",
        "2/2: running",
        f"verify: Service {SERVICE_ID} converged",
    ]
    (watch,) = fake.requests["Watch"]
    assert set(watch.kinds) == {control.OBJECT_KIND_SERVICE, control.OBJECT_KIND_TASK}


def test_what_the_watch_tells_late_changes_nothing_back(host: Host) -> None:
    known, late = _task("t1", 1, types.TASK_STATE_PREPARING), _task("t1", 1, types.TASK_STATE_PENDING)
    known.meta.version, late.meta.version = 9, 8
    fake = _with_service(host, 1, known)
    fake.events.put(_event(late))
    running = _task("t1", 1, types.TASK_STATE_RUNNING)
    running.meta.version = 10
    fake.events.put(_event(running))
    assert "pending" not in host.swarmnet("service", "create", "--name", "web", "img").out


def test_quiet_waits_without_a_word(host: Host) -> None:
    fake = _with_service(host, 1)
    fake.events.put(_event(_task("t1", 1, types.TASK_STATE_RUNNING)))
    result = host.swarmnet("service", "create", "-q", "--name", "web", "img")
    assert result.out == f"{SERVICE_ID}\n"
    assert fake.events.empty()


def test_a_manager_that_dies_meanwhile_is_replaced(host: Host) -> None:
    fake = _with_service(host, 1)
    fake.answers["ListTasks"].append(
        control.ListTasksResponse(tasks=[_task("t1", 1, types.TASK_STATE_RUNNING)])
    )
    fake.events.put(BREAK)
    result = host.swarmnet("service", "create", "--name", "web", "img")
    assert result.status == 0
    assert result.out.endswith("converged\n")
    assert len(fake.requests["Watch"]) == 2


def test_managers_that_stay_away_are_told(host: Host) -> None:
    fake = _with_service(host, 1)
    fake.answers["GetService"] = [Unavailable("gone", hint="Try again.")]
    result = host.swarmnet("service", "create", "--name", "web", "img")
    assert (result.status, result.err) == (1, "Warning: slow\nError: gone\nTry again.\n")


def test_a_service_removed_meanwhile(host: Host) -> None:
    fake = _with_service(host, 1)
    fake.events.put(control.WatchEvent(action=REMOVED, service=_view(1).service))
    result = host.swarmnet("service", "create", "--name", "web", "img")
    assert (result.status, result.err) == (1, "Warning: slow\nError: service web was removed meanwhile\n")


def test_after_an_interrupt_it_says_that_the_swarm_goes_on(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    _with_service(host, 1)
    monkeypatch.setattr("swarmnet.cli.service.follow", interrupt)
    result = host.swarmnet("service", "create", "--name", "web", "img")
    assert result.status == 130
    assert f"Use `swarmnet service ps {SERVICE_ID}` to check progress." in result.err


def test_scaling_down_waits_until_the_others_are_told_to_stop(host: Host) -> None:
    fake = _with_service(
        host, 1, _task("t1", 1, types.TASK_STATE_RUNNING), _task("t2", 2, types.TASK_STATE_RUNNING)
    )
    fake.answers["ScaleService"] = [_view(1)]
    fake.events.put(_event(_task("t2", 2, types.TASK_STATE_RUNNING, live=False)))
    result = host.swarmnet("service", "scale", "web=1")
    assert result.status == 0
    assert result.out.splitlines() == [
        "web scaled to 1",
        "overall progress: 2 out of 1 tasks",
        "1/1: running",
        "2/1: running",
        "overall progress: 1 out of 1 tasks",
        f"verify: Service {SERVICE_ID} converged",
    ]


class _Loaded(Convergence):
    def __init__(self, view: control.ServiceView, tasks: Sequence[types.Task]) -> None:
        super().__init__(SERVICE_ID)
        self._service, self._desired = view.service, view.desired
        self._tasks = {task.meta.id: task for task in tasks}


RUNNING, FAILED = types.TASK_STATE_RUNNING, types.TASK_STATE_FAILED


@pytest.mark.parametrize(
    ("replicas", "tasks", "done"),
    [
        (0, [], True),
        (1, [], False),
        (1, [_task("t1", 1, types.TASK_STATE_RUNNING)], True),
        (1, [_task("t1", 1, types.TASK_STATE_RUNNING, live=False)], False),
        (1, [_task("t1", 1, FAILED, live=False), _task("t2", 1, RUNNING)], True),
        (2, [_task("t1", 1, types.TASK_STATE_RUNNING), _task("t2", 1, types.TASK_STATE_RUNNING)], False),
        (1, [_task("t1", 1, types.TASK_STATE_RUNNING), _task("t2", 2, types.TASK_STATE_NEW)], False),
    ],
)  # fmt: skip
def test_when_it_has_converged(replicas: int, tasks: list[types.Task], done: bool) -> None:
    assert _Loaded(_view(replicas), tasks).done() is done


def test_a_task_that_fails_again_and_again_says_why() -> None:
    tasks = [
        _task("t1", 1, types.TASK_STATE_FAILED, "exit status 3", live=False),
        _task("t2", 1, types.TASK_STATE_ASSIGNED),
    ]
    assert (
        _Loaded(_view(1), tasks).lines(bars=False)[1] == "1/1: assigned: the one before failed: exit status 3"
    )


def test_a_global_service_counts_nodes() -> None:
    task = _task("t1", 0, types.TASK_STATE_RUNNING)
    task.node_id = "w" * 25
    following = _Loaded(_view(1, types.SERVICE_MODE_GLOBAL), [task])
    assert following.done()
    assert following.lines(bars=False) == ["overall progress: 1 out of 1 tasks", f"{'w' * 12}: running"]


def test_many_tasks_are_only_counted() -> None:
    assert _Loaded(_view(500), []).lines(bars=True) == ["overall progress: 0 out of 500 tasks"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_bars_redrawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    out = _Terminal()
    screen = Screen(out)
    screen.show(_Loaded(_view(1), [_task("t1", 1, types.TASK_STATE_ASSIGNED)]))
    screen.show(_Loaded(_view(1), [_task("t1", 1, types.TASK_STATE_ASSIGNED)]))
    screen.show(_Loaded(_view(1), [_task("t1", 1, types.TASK_STATE_RUNNING)]))
    assert out.getvalue() == (
        "\x1b[Joverall progress: 0 out of 1 tasks\n"
        f"1/1: assigned  [{'=' * 25}>{' ' * 25}]\n"
        "\x1b[2A\x1b[Joverall progress: 1 out of 1 tasks\n"
        f"1/1: running   [{'=' * 50}>]\n"
    )


def test_a_narrow_terminal_gets_no_broken_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out = _Terminal()
    Screen(out).show(_Loaded(_view(1), [_task("t1", 1, types.TASK_STATE_RUNNING)]))
    assert max(map(len, out.getvalue().splitlines())) < 40


def _scope(
    id_: str, phase: types.RotationPhase.ValueType, *epochs: int, again: bool = False
) -> types.KeyScope:
    """Epochs as a rotation has them: the last but one current while prepared, the last one afterwards."""
    scope = types.KeyScope(meta=types.Meta(id=id_), phase=phase, again=again)
    prepared = phase == types.ROTATION_PHASE_PREPARE
    current = epochs[-2] if prepared else epochs[-1]
    for number in epochs:
        role = types.EPOCH_ROLE_CURRENT if number == current else types.EPOCH_ROLE_PREVIOUS
        scope.epochs.add(number=number, role=types.EPOCH_ROLE_NEXT if number > current else role)
    return scope


STABLE, PREPARE = types.ROTATION_PHASE_STABLE, types.ROTATION_PHASE_PREPARE
SWITCH, RETIRE = types.ROTATION_PHASE_SWITCH, types.ROTATION_PHASE_RETIRE


def _with_keys(host: Host, *scopes: types.KeyScope) -> FakeSwarm:
    fake = host.manager()
    views = [control.KeyView(scope=scope, name=f"the {scope.meta.id}") for scope in scopes]
    fake.answers["ListKeys"] = [control.ListKeysResponse(keys=views)]
    fake.answers["RotateKeys"] = [control.RotateKeysResponse(scopes=[scope.meta.id for scope in scopes])]
    return fake


def _change(fake: FakeSwarm, scope: types.KeyScope) -> None:
    fake.events.put(control.WatchEvent(action=UPDATED, key_scope=scope))


def test_rotate_shows_the_three_steps(host: Host) -> None:
    fake = _with_keys(host, _scope("net", STABLE, 3))
    _change(fake, _scope("net", STABLE, 3, again=True))
    _change(fake, _scope("net", PREPARE, 3, 4))
    _change(fake, _scope("net", SWITCH, 3, 4))
    _change(fake, _scope("net", RETIRE, 3, 4))
    _change(fake, _scope("net", STABLE, 4))
    result = host.swarmnet("key", "rotate", "--network", "net")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines() == [
        "overall progress: 0 out of 1 scopes",
        "the net: waiting to start",
        "the net: prepare: every node installs epoch 4",
        "the net: switch: every node sends with epoch 4",
        "the net: retire: every node drops epoch 3",
        "overall progress: 1 out of 1 scopes",
        "the net: done: epoch 4 is in use",
        "verify: Keys rotated",
    ]
    assert fake.requests["RotateKeys"] == [control.RotateKeysRequest(ref="net")]


def test_a_rotation_in_progress_is_not_the_one_asked_for(host: Host) -> None:
    fake = _with_keys(host, _scope("net", SWITCH, 3, 4))
    fake.answers["ListKeys"][0].keys[0].scope.CopyFrom(_scope("net", PREPARE, 3, 4))
    _change(fake, _scope("net", STABLE, 4, again=True))
    _change(fake, _scope("net", PREPARE, 4, 5))
    _change(fake, _scope("net", STABLE, 5))
    assert "the net: done: epoch 5 is in use" in host.swarmnet("key", "rotate").out
    assert fake.events.empty()


def test_a_scope_whose_network_goes_is_done(host: Host) -> None:
    fake = _with_keys(host, _scope("gossip", STABLE, 1), _scope("net", STABLE, 3))
    _change(fake, _scope("gossip", STABLE, 2))
    fake.events.put(control.WatchEvent(action=REMOVED, key_scope=_scope("net", STABLE, 3)))
    result = host.swarmnet("key", "rotate")
    assert result.status == 0
    assert "the net: removed\n" in result.out


def test_rotate_detached_prints_the_scopes(host: Host) -> None:
    _with_keys(host, _scope("gossip", STABLE, 1), _scope("net", STABLE, 3))
    assert host.swarmnet("key", "rotate", "-d").out == "gossip\nnet\n"
