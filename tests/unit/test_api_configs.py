"""Configs by the control API, on a store without Raft."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.control_api import NO_CONTEXT, MadeUpManagers, WatchContext, make_api, make_swarm
from tests.unit.local_raft import LocalRaft

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, ResourceExhausted
from swarmnet.core.limits import MAX_CONFIG_BYTES
from swarmnet.manager.control.servicer import Control
from swarmnet.manager.store import Store


@pytest.fixture
def swarm() -> Store:
    return make_swarm()


@pytest.fixture
def api(swarm: Store) -> Control:
    return make_api(swarm, MadeUpManagers())


async def create(api: Control, name: str = "site", data: bytes = b"data", **fields: str) -> str:
    request = control.CreateConfigRequest(name=name, data=data, labels={"tier": "web"}, **fields)
    return (await api.CreateConfig(request, NO_CONTEXT)).id


async def find(api: Control, ref: str = "site") -> types.Config:
    return await api.GetConfig(control.GetRequest(ref=ref), NO_CONTEXT)


async def update(api: Control, value: str, version: int = 0, request_id: str = "") -> int:
    """The config's version after it."""
    request = control.UpdateConfigRequest(
        ref="site", labels={"value": value}, version=version, request_id=request_id
    )
    return (await api.UpdateConfig(request, NO_CONTEXT)).version


async def test_a_config_is_found_by_id_name_and_prefix(api: Control) -> None:
    created = await create(api)
    for ref in (created, "site", created[:6]):
        found = await find(api, ref)
        assert (found.meta.id, found.name, found.data, dict(found.labels)) == (
            created,
            "site",
            b"data",
            {"tier": "web"},
        )


async def test_a_list_has_no_data(api: Control) -> None:
    await create(api)
    await create(api, "other")
    listed = (await api.ListConfigs(control.ListRequest(), NO_CONTEXT)).configs
    assert [(each.name, dict(each.labels), each.data) for each in listed] == [
        ("site", {"tier": "web"}, b""),
        ("other", {"tier": "web"}, b""),
    ]
    assert all(each.meta.version for each in listed)
    named = (await api.ListConfigs(control.ListRequest(names=["other"]), NO_CONTEXT)).configs
    assert [each.name for each in named] == ["other"]


async def test_a_retried_create_makes_one_config(api: Control, swarm: Store) -> None:
    first = await create(api, request_id="r1")
    assert await create(api, request_id="r1") == first
    assert len(list(swarm.state.all(types.Config))) == 1
    with pytest.raises(AlreadyExists, match="config site already exists"):
        await create(api, request_id="r2")


@pytest.mark.parametrize("size", [0, MAX_CONFIG_BYTES + 1])
async def test_data_of_a_wrong_size_is_refused(api: Control, size: int) -> None:
    with pytest.raises(InvalidArgument, match=f"1 to {MAX_CONFIG_BYTES} bytes long, not {size}"):
        await create(api, data=bytes(size))
    with pytest.raises(NotFound, match="no such config: site"):
        await find(api)


async def test_the_largest_data_fits_one_command(api: Control) -> None:
    await create(api, data=bytes(MAX_CONFIG_BYTES))
    assert await update(api, "x" * 10_000)
    with pytest.raises(ResourceExhausted):
        await update(api, "x" * 20_000)
    assert len((await find(api)).data) == MAX_CONFIG_BYTES


async def test_an_update_replaces_the_labels_and_nothing_else(api: Control) -> None:
    await create(api)
    before = await find(api)
    version = await update(api, "1")
    after = await find(api)
    assert dict(after.labels) == {"value": "1"}
    assert (after.meta.id, after.data, after.meta.created_at) == (
        before.meta.id,
        b"data",
        before.meta.created_at,
    )
    assert after.meta.version == version > before.meta.version


async def test_an_update_may_ask_for_the_version_it_rests_on(api: Control) -> None:
    await create(api)
    read = (await find(api)).meta.version
    version = await update(api, "1", read)
    with pytest.raises(Conflict, match=f"site is at version {version}, not {read}"):
        await update(api, "2", read)
    assert dict((await find(api)).labels) == {"value": "1"}
    assert await update(api, "2", version) > version


@pytest.mark.parametrize("conditional", [True, False])
async def test_a_retried_update_takes_effect_once(api: Control, conditional: bool) -> None:
    await create(api)
    read = (await find(api)).meta.version if conditional else 0
    version = await update(api, "mine", read, "r1")
    await update(api, "theirs")
    assert await update(api, "mine", read, "r1") == version
    assert dict((await find(api)).labels) == {"value": "theirs"}


async def test_a_removed_config_is_gone_and_its_name_is_free(api: Control) -> None:
    created = await create(api)
    assert (await api.RemoveConfig(control.GetRequest(ref="site"), NO_CONTEXT)).id == created
    with pytest.raises(NotFound, match="no such config: site"):
        await update(api, "1")
    assert await create(api) != created


async def test_changes_of_configs_can_be_watched(api: Control, swarm: Store) -> None:
    context: Any = WatchContext()
    request = control.WatchRequest(kinds=[control.OBJECT_KIND_CONFIG])
    events = api.Watch(request, context)
    upcoming = asyncio.ensure_future(anext(events))
    await context.begun.wait()
    await create(api)
    seen = await upcoming
    assert (seen.action, seen.config.name) == (control.WatchEvent.CREATED, "site")
    await events.aclose()


async def test_what_needs_no_barrier_before_asks_for_one_before_it_refuses(swarm: Store) -> None:
    class CountingRaft(LocalRaft):
        barriers = 0

        async def read_barrier(self, timeout_s: float = 5.0) -> None:
            self.barriers += 1

    raft = CountingRaft(swarm)
    swarm.attach(raft)
    api = make_api(swarm, MadeUpManagers())
    await create(api)
    refused = (
        (AlreadyExists, "CreateConfig", control.CreateConfigRequest(name="site", data=b"x")),
        (NotFound, "UpdateConfig", control.UpdateConfigRequest(ref="nope")),
        (NotFound, "RemoveConfig", control.GetRequest(ref="nope")),
    )
    marked = {name for name in dir(api) if hasattr(getattr(api, name), "confirms_itself")}
    assert marked == {name for _, name, _ in refused}
    for number, (kind, name, request) in enumerate(refused):
        assert raft.barriers == number
        with pytest.raises(kind):
            await getattr(api, name)(request, NO_CONTEXT)
