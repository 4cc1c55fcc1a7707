"""Certificates for others: for a joining node against its token, and renewals for those that have one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from cryptography import x509

from swarmnet.api.v1 import ca_pb2, ca_pb2_grpc
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.certificates import digest_of, digests_of, expires_at, issuer_among
from swarmnet.core.errors import Internal, InvalidArgument, PermissionDenied
from swarmnet.core.limits import CERTIFICATE_LIFETIME_S
from swarmnet.core.state import Transaction
from swarmnet.core.tokens import JoinToken, parse_token
from swarmnet.manager.allocator import next_node_index
from swarmnet.manager.ca.authority import Subject
from swarmnet.manager.ca.credentials import subject_of
from swarmnet.manager.ca.roots import issuing, trusted_roots
from swarmnet.manager.ca.tokens import role_of
from swarmnet.manager.control.cluster import secrets_of
from swarmnet.manager.control.surroundings import new_id
from swarmnet.manager.identity import CallerRole, current_caller
from swarmnet.manager.roles import check_role, wanted_role
from swarmnet.manager.store import Store

_ROLES = {types.ROLE_MANAGER: CallerRole.MANAGER, types.ROLE_WORKER: CallerRole.WORKER}
_NAMES = {types.ROLE_MANAGER: "manager", types.ROLE_WORKER: "worker"}
_LONGEST_HOSTNAME = 253
_LONGEST_ADDRESS = 300
_MOST_ROOTS = 4


class Issuer:
    """Signs with the root key that the replicated state holds."""

    def __init__(self, store: Store, managers: Callable[[], Sequence[str]]) -> None:
        """`managers`: host:port of every manager's API, as of now."""
        self._store = store
        self._managers = managers

    def manager_addresses(self) -> Sequence[str]:
        return self._managers()

    def answer(self, csr_pem: str, node_id: str, role: CallerRole) -> ca_pb2.IssueCertificateResponse:
        transaction = Transaction(self._store.state)
        cluster = transaction.cluster()
        now = issuing(cluster, secrets_of(transaction))
        lifetime_s = CERTIFICATE_LIFETIME_S if role is CallerRole.CLIENT else now.lifetime_s
        subject = Subject(node_id, role, cluster.meta.id)
        issued = now.authority.issue(csr_pem.encode(), subject, datetime.now(UTC), lifetime_s)
        return ca_pb2.IssueCertificateResponse(
            node_id=node_id,
            certificate_pem=(issued + now.chain_pem).decode(),
            root_certificate_pem=now.roots_pem.decode(),
            manager_addresses=self._managers(),
            cluster_id=cluster.meta.id,
        )


class BootstrapService(ca_pb2_grpc.BootstrapServicer):
    """`root_pem` is answered by any manager; certificates are the leader's."""

    def __init__(self, store: Store, issuer: Issuer, root_pem: Callable[[], bytes]) -> None:
        self._store = store
        self._issuer = issuer
        self._root_pem = root_pem

    async def GetRootCertificate(
        self, request: ca_pb2.GetRootCertificateRequest, context: object
    ) -> ca_pb2.GetRootCertificateResponse:
        return ca_pb2.GetRootCertificateResponse(root_certificate_pem=self._root_pem().decode())

    async def IssueCertificate(
        self, request: ca_pb2.IssueCertificateRequest, context: object
    ) -> ca_pb2.IssueCertificateResponse:
        """The token first: without one, nothing of the request is looked at. The node exists from here on."""
        token = parse_token(request.token)
        role = self._role(Transaction(self._store.state), token, request.role)
        node_id = new_id()
        answer = self._issuer.answer(request.csr_pem, node_id, _ROLES[role])
        answer.role = role

        def decide(transaction: Transaction) -> None:
            self._role(transaction, token, request.role)
            node = joined_node(node_id, role, request)
            node.index = next_node_index(transaction)
            node.certificate_root = digest_of(answer.root_certificate_pem.encode())
            transaction.put(node)

        await self._store.transact(decide)
        return answer

    def _role(
        self, transaction: Transaction, token: JoinToken, wanted: types.Role.ValueType
    ) -> types.Role.ValueType:
        role = role_of(token, transaction.cluster(), secrets_of(transaction))
        if wanted in _NAMES and wanted != role:
            raise InvalidArgument(
                f"the join token is for a {_NAMES[role]}, and this is a {_NAMES[wanted]}",
                hint=f"Print the right one on a manager: `swarmnet swarm join-token {_NAMES[wanted]}`.",
            )
        return role


def joined_node(
    node_id: str, role: types.Role.ValueType, request: ca_pb2.IssueCertificateRequest
) -> types.Node:
    hostname = request.hostname
    if not hostname or len(hostname) > _LONGEST_HOSTNAME or not hostname.isprintable() or " " in hostname:
        raise InvalidArgument("the joining node gave no usable hostname", hint="Set the host's name.")
    node = types.Node(meta=types.Meta(id=node_id), role=role, hostname=hostname)
    if role == types.ROLE_MANAGER:
        node.address, node.bootstrap_address = request.address, request.bootstrap_address
    return node


class CertificateService(ca_pb2_grpc.CertificateAuthorityServicer):
    """Who is no longer what its certificate says is refused before it gets here."""

    def __init__(self, store: Store, issuer: Issuer) -> None:
        self._store = store
        self._issuer = issuer

    async def RenewCertificate(
        self, request: ca_pb2.RenewCertificateRequest, context: object
    ) -> ca_pb2.IssueCertificateResponse:
        """Signed first: a bad request leaves no trace."""
        caller = current_caller()
        role = request.role or next(role for role, name in _ROLES.items() if name is caller.role)
        check_role(role)
        _check_entitled(self._caller(), role)
        answer = self._issuer.answer(request.csr_pem, caller.node_id, _ROLES[role])
        answer.role = role
        if request.bootstrap_address:
            await self._note_address(request.bootstrap_address)
        return answer

    async def ReportCertificate(
        self, request: ca_pb2.ReportCertificateRequest, context: object
    ) -> ca_pb2.ReportCertificateResponse:
        """Kept only for a node in its role: of a demoted manager, its worker's certificate counts."""
        caller = current_caller()

        def decide(transaction: Transaction) -> ca_pb2.ReportCertificateResponse:
            cluster, node = transaction.cluster(), transaction.get(types.Node, caller.node_id)
            if node is not None and _ROLES[node.role] is caller.role:
                changed = transaction.edit(node)
                note_certificate(changed, cluster, request)
                if changed != node:
                    transaction.put(changed)
            return ca_pb2.ReportCertificateResponse(root_certificate_pem=trusted_roots(cluster).decode())

        return await self._store.transact(decide)

    async def GetRole(self, request: ca_pb2.GetRoleRequest, context: object) -> ca_pb2.GetRoleResponse:
        return ca_pb2.GetRoleResponse(
            role=self._caller().role, manager_addresses=self._issuer.manager_addresses()
        )

    def _caller(self) -> types.Node:
        node = self._store.state.get(types.Node, current_caller().node_id)
        assert node is not None, "who is no node is not admitted"
        return node

    async def _note_address(self, address: str) -> None:
        """Where the manager that the caller becomes will serve those that join."""
        if len(address) > _LONGEST_ADDRESS or not address.isprintable():
            raise InvalidArgument("not the address of a bootstrap port", hint="Send it as host:port.")
        node_id = current_caller().node_id

        def decide(transaction: Transaction) -> None:
            if (node := transaction.get(types.Node, node_id)) is not None:
                changed = transaction.edit(node)
                changed.bootstrap_address = address
                transaction.put(changed)

        await self._store.transact(decide)

    async def IssueClientCertificate(
        self, request: ca_pb2.RenewCertificateRequest, context: object
    ) -> ca_pb2.IssueCertificateResponse:
        return self._issuer.answer(request.csr_pem, new_id(), CallerRole.CLIENT)


def note_certificate(
    node: types.Node, cluster: types.Cluster, request: ca_pb2.ReportCertificateRequest
) -> None:
    """Write down what the node uses. InvalidArgument unless a root of the cluster issued it to the node."""
    try:
        pem = request.certificate_pem.encode()
        trusted = digests_of(request.root_certificate_pem.encode())[:_MOST_ROOTS]
        names_it = subject_of(x509.load_pem_x509_certificate(pem)).node_id == node.meta.id
        issuer = issuer_among(pem, trusted_roots(cluster))
    except (ValueError, Internal) as error:
        raise InvalidArgument("not a certificate and the roots to trust") from error
    if not names_it:
        raise InvalidArgument("the certificate is another node's")
    node.certificate_root = issuer
    node.certificate_expires_at.FromDatetime(expires_at(pem))
    del node.trusted_roots[:]
    node.trusted_roots.extend(trusted)


def _check_entitled(node: types.Node, role: types.Role.ValueType) -> None:
    """Its own role; or a manager's, which counts only once it takes part in Raft."""
    if role != node.role and not (role == types.ROLE_MANAGER == wanted_role(node)):
        raise PermissionDenied(
            f"node {node.meta.id} is not to be a {_NAMES[role]}",
            hint="`swarmnet node promote` and `swarmnet node demote` change roles.",
        )
