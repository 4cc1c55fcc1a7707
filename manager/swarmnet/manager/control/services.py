"""Services: what is wanted. Their tasks are the orchestrator's to make."""

from __future__ import annotations

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import AlreadyExists, InvalidArgument
from swarmnet.core.state import State, Transaction
from swarmnet.manager.control import lookup
from swarmnet.manager.control.service_spec import check_image, check_replicas, checked, esp_warnings
from swarmnet.manager.control.surroundings import Noun, new_id


class ServiceNoun(Noun):
    async def CreateService(
        self, request: control.CreateServiceRequest, context: object
    ) -> control.CreateServiceResponse:
        spec = checked(request.spec)
        service_id = new_id(request.request_id)

        def decide(transaction: Transaction) -> control.CreateServiceResponse:
            existing = transaction.all(types.Service)
            if not any(each.meta.id == service_id for each in existing):  # else a retry: it took effect
                _check_name_free(spec.name, existing)
                check_image(spec.image, transaction.scan(types.Node))
                transaction.put(_service(transaction, service_id, spec))
            return control.CreateServiceResponse(id=service_id, warnings=esp_warnings(transaction, spec))

        return await self._store.transact(decide, request.request_id)

    async def ListServices(
        self, request: control.ListRequest, context: object
    ) -> control.ListServicesResponse:
        state = self._store.state
        services = [lookup.service(state, ref) for ref in request.names] or state.all(types.Service)
        running, wanted = _tasks_by_service(state)
        views = (_view(each, running, wanted) for each in services)
        return control.ListServicesResponse(services=views)

    async def GetService(self, request: control.GetRequest, context: object) -> control.ServiceView:
        return self._service_view(lookup.service(self._store.state, request.ref))

    async def ScaleService(
        self, request: control.ScaleServiceRequest, context: object
    ) -> control.ServiceView:
        check_replicas(request.replicas)

        def decide(transaction: Transaction) -> types.Service:
            service = transaction.edit(lookup.service(transaction, request.ref))
            if service.spec.mode != types.SERVICE_MODE_REPLICATED:
                raise InvalidArgument(
                    f"service {service.spec.name} is global: scale can only be used with replicated mode",
                    hint="A global service has one task on each node; use constraints to choose nodes.",
                )
            service.spec.replicas = request.replicas
            transaction.put(service)
            return service

        return self._service_view(await self._store.transact(decide))

    async def RemoveService(self, request: control.GetRequest, context: object) -> control.RemoveResponse:
        def decide(transaction: Transaction) -> control.RemoveResponse:
            service = lookup.service(transaction, request.ref)
            transaction.remove(service)
            return control.RemoveResponse(id=service.meta.id)

        return await self._store.transact(decide)

    def _service_view(self, service: types.Service) -> control.ServiceView:
        return _view(service, *_tasks_by_service(self._store.state))


def _check_name_free(name: str, existing: list[types.Service]) -> None:
    if any(each.spec.name == name for each in existing):
        raise AlreadyExists(
            f"service with name {name} already exists",
            hint=f"Use another name, or remove it first: `swarmnet service rm {name}`.",
        )


def _service(transaction: Transaction, service_id: str, spec: types.ServiceSpec) -> types.Service:
    """With network ids for names; the networks become preconditions, so none of them is removed meanwhile."""
    service = types.Service(meta=types.Meta(id=service_id), spec=spec, spec_version=1)
    ids = [lookup.network(transaction, ref).meta.id for ref in spec.networks]
    for network_id in ids:
        transaction.get(types.Network, network_id)
    service.spec.networks[:] = dict.fromkeys(ids)
    return service


def _tasks_by_service(state: State) -> tuple[dict[str, int], dict[str, int]]:
    """Tasks that run, and tasks that should, of each service."""
    running: dict[str, int] = {}
    wanted: dict[str, int] = {}
    for task in state.all(types.Task):
        if task.desired_state == types.TASK_STATE_RUNNING:
            wanted[task.service_id] = wanted.get(task.service_id, 0) + 1
            if task.state == types.TASK_STATE_RUNNING:
                running[task.service_id] = running.get(task.service_id, 0) + 1
    return running, wanted


def _view(service: types.Service, running: dict[str, int], wanted: dict[str, int]) -> control.ServiceView:
    replicated = service.spec.mode == types.SERVICE_MODE_REPLICATED
    return control.ServiceView(
        service=service,
        desired=service.spec.replicas if replicated else wanted.get(service.meta.id, 0),
        running=running.get(service.meta.id, 0),
    )
