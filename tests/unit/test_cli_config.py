"""`swarmnet config`: what it asks for and what it prints."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.unit.fake_swarm import Host, make_host

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import NotFound

CONFIG_ID = "site0" + "c" * 20


@pytest.fixture
def host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    yield from make_host(tmp_path, capsys, monkeypatch)


def made(name: str, id_: str = CONFIG_ID, **fields: object) -> types.Config:
    meta = types.Meta(id=id_, version=7)
    meta.created_at.FromSeconds(int(time.time() - 3 * 86400))
    meta.updated_at.FromSeconds(int(time.time() - 300))
    return types.Config(meta=meta, name=name, **fields)  # type: ignore[arg-type]


def listed() -> control.ListConfigsResponse:
    return control.ListConfigsResponse(
        configs=[made("site.conf", labels={"tier": "web"}), made("motd", "motd0" + "c" * 20)]
    )


def test_create_sends_the_file_and_prints_the_id(host: Host, tmp_path: Path) -> None:
    (tmp_path / "site.conf").write_bytes(b"a\x00b")
    fake = host.manager()
    fake.answers["CreateConfig"] = [control.CreateConfigResponse(id=CONFIG_ID)]
    line = ("config", "create", "--label", "tier=web", "-l", "new", "site.conf", f"{tmp_path}/site.conf")
    assert host.swarmnet(*line).out == f"{CONFIG_ID}\n"
    (request,) = fake.requests["CreateConfig"]
    assert len(request.request_id) == 25
    request.request_id = ""
    assert request == control.CreateConfigRequest(
        name="site.conf", data=b"a\x00b", labels={"tier": "web", "new": ""}
    )


def test_create_reads_standard_input(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = host.manager()
    fake.answers["CreateConfig"] = [control.CreateConfigResponse(id=CONFIG_ID)]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"piped")))
    assert host.swarmnet("config", "create", "motd", "-").out == f"{CONFIG_ID}\n"
    assert fake.requests["CreateConfig"][0].data == b"piped"


def test_a_file_that_cannot_be_read_is_named(host: Host, tmp_path: Path) -> None:
    fake = host.manager()
    result = host.swarmnet("config", "create", "motd", f"{tmp_path}/nope")
    assert (result.status, result.out) == (1, "")
    assert result.err == (
        f"Error: error reading content from '{tmp_path}/nope': No such file or directory\n"
        "Name a file that can be read, or - for standard input.\n"
    )
    assert fake.requests == {}


def test_list(host: Host) -> None:
    host.manager().answers["ListConfigs"] = [listed()]
    assert host.swarmnet("config", "ls").out == (
        "ID                          NAME        CREATED      UPDATED\n"
        "motd0cccccccccccccccccccc   motd        3 days ago   5 minutes ago\n"
        "site0cccccccccccccccccccc   site.conf   3 days ago   5 minutes ago\n"
    )


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ("-q", f"{'motd0' + 'c' * 20}\n{CONFIG_ID}\n"),
        ("-q --filter label=tier=web", f"{CONFIG_ID}\n"),
        ("-q --filter name=mot", f"{'motd0' + 'c' * 20}\n"),
        ("-q --filter id=site0", f"{CONFIG_ID}\n"),
        ("--format {{.Name}}:{{.Labels}}", "motd:\nsite.conf:tier=web\n"),
    ],
)
def test_options_of_the_list(host: Host, options: str, out: str) -> None:
    host.manager().answers["ListConfigs"] = [listed()]
    assert host.swarmnet("config", "ls", *options.split()).out == out


def test_inspect_has_dockers_shape(host: Host) -> None:
    host.manager().answers["GetConfig"] = [made("site.conf", labels={"b": "2", "a": "1"}, data=b"\x00\xff")]
    (shown,) = json.loads(host.swarmnet("config", "inspect", "site.conf").out)
    assert (shown["ID"], shown["Version"]) == (CONFIG_ID, {"Index": 7})
    assert shown["Spec"] == {"Name": "site.conf", "Labels": {"a": "1", "b": "2"}, "Data": "AP8="}
    assert shown["CreatedAt"] < shown["UpdatedAt"]


def test_rm_goes_on_after_a_failure(host: Host) -> None:
    absent = NotFound("no such config: nope", hint="`swarmnet config ls` lists what there is.")
    host.manager().answers["RemoveConfig"] = [absent, control.RemoveResponse(id=CONFIG_ID)]
    result = host.swarmnet("config", "rm", "nope", "motd")
    assert (result.status, result.out) == (1, "motd\n")
    assert result.err == "Error: no such config: nope\n`swarmnet config ls` lists what there is.\n"
