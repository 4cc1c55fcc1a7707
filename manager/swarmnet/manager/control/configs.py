"""Configs: small blobs with labels, by name. The data stays as it was created; labels can be replaced."""

from __future__ import annotations

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import AlreadyExists, Conflict, InvalidArgument
from swarmnet.core.ids import check_name
from swarmnet.core.limits import MAX_CONFIG_BYTES
from swarmnet.core.state import Transaction
from swarmnet.manager.control import lookup
from swarmnet.manager.control.surroundings import Noun, confirms_itself, new_id


class ConfigNoun(Noun):
    @confirms_itself
    async def CreateConfig(
        self, request: control.CreateConfigRequest, context: object
    ) -> control.CreateConfigResponse:
        check_name(request.name, "config")
        if not 0 < len(request.data) <= MAX_CONFIG_BYTES:
            raise InvalidArgument(
                f"config data must be 1 to {MAX_CONFIG_BYTES} bytes long, not {len(request.data)}",
                hint="Keep what is larger in the image, or cut it into several configs.",
            )
        config_id = new_id(request.request_id)

        def decide(transaction: Transaction) -> control.CreateConfigResponse:
            existing = transaction.all(types.Config)
            if any(each.meta.id == config_id for each in existing):  # a retry whose first try took effect
                return control.CreateConfigResponse(id=config_id)
            if any(each.name == request.name for each in existing):
                raise AlreadyExists(
                    f"config {request.name} already exists",
                    hint=f"Use another name, or remove it first: `swarmnet config rm {request.name}`.",
                )
            meta = types.Meta(id=config_id)
            transaction.put(
                types.Config(meta=meta, name=request.name, labels=request.labels, data=request.data)
            )
            return control.CreateConfigResponse(id=config_id)

        return (await self._store.transact_unconfirmed(decide, request.request_id))[0]

    @confirms_itself
    async def UpdateConfig(
        self, request: control.UpdateConfigRequest, context: object
    ) -> control.UpdateConfigResponse:
        def decide(transaction: Transaction) -> control.UpdateConfigResponse:
            config = lookup.config(transaction, request.ref)
            if first := self._store.state.applied(request.request_id):
                return control.UpdateConfigResponse(id=config.meta.id, version=first)
            _check_version(config, request.version)
            changed = transaction.edit(config)
            changed.ClearField("labels")
            changed.labels.MergeFrom(request.labels)
            transaction.put(changed)
            return control.UpdateConfigResponse(id=config.meta.id)

        answer, index = await self._store.transact_unconfirmed(decide, request.request_id)
        answer.version = index or answer.version
        return answer

    async def ListConfigs(self, request: control.ListRequest, context: object) -> control.ListConfigsResponse:
        state = self._store.state
        found = [lookup.config(state, ref) for ref in request.names] or state.all(types.Config)
        return control.ListConfigsResponse(
            configs=(types.Config(meta=each.meta, name=each.name, labels=each.labels) for each in found)
        )

    async def GetConfig(self, request: control.GetRequest, context: object) -> types.Config:
        return lookup.config(self._store.state, request.ref)

    @confirms_itself
    async def RemoveConfig(self, request: control.GetRequest, context: object) -> control.RemoveResponse:
        def decide(transaction: Transaction) -> control.RemoveResponse:
            config = lookup.config(transaction, request.ref)
            transaction.remove(config)
            return control.RemoveResponse(id=config.meta.id)

        return (await self._store.transact_unconfirmed(decide))[0]


def _check_version(config: types.Config, wanted: int) -> None:
    if wanted not in (0, config.meta.version):
        raise Conflict(
            f"update out of sequence: config {config.name} is at version {config.meta.version}, not {wanted}",
            hint="Somebody changed it meanwhile. Read it again, then update what it is now.",
        )
