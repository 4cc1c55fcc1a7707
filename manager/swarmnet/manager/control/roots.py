"""The root certificate: replaced on request."""

from __future__ import annotations

from datetime import UTC, datetime

from swarmnet.api.v1 import control_pb2 as control
from swarmnet.core.errors import InvalidArgument
from swarmnet.core.secret import SecretBytes
from swarmnet.core.state import Transaction
from swarmnet.core.timestamps import seconds
from swarmnet.manager import root_rotation
from swarmnet.manager.ca.authority import Authority
from swarmnet.manager.ca.roots import checked_root
from swarmnet.manager.control.cluster import ClusterNoun
from swarmnet.manager.control.cluster_settings import CERTIFICATE_LIFETIME


class RootNoun(ClusterNoun):
    async def RotateRootCertificate(
        self, request: control.RotateRootCertificateRequest, context: object
    ) -> control.GetClusterResponse:
        if request.HasField("certificate_lifetime"):
            CERTIFICATE_LIFETIME.check(request.certificate_lifetime)
        now = seconds(self._store.now())
        new = self._new_root(request, datetime.fromtimestamp(now, UTC))

        def decide(transaction: Transaction) -> None:
            if request.HasField("certificate_lifetime"):
                cluster = transaction.edit(transaction.cluster())
                cluster.certificate_lifetime.CopyFrom(request.certificate_lifetime)
                transaction.put(cluster)
            root_rotation.begin(transaction, new, now)

        await self._store.transact(decide, request.request_id)
        return self._cluster_view()

    def _new_root(self, request: control.RotateRootCertificateRequest, now: datetime) -> Authority:
        if bool(request.root_certificate_pem) != bool(request.root_key_pem):
            raise InvalidArgument(
                "a root certificate and its key go together", hint="Give both, or none to have them made."
            )
        if not request.root_certificate_pem:
            return Authority.create(Transaction(self._store.state).cluster().meta.id, now)
        key = SecretBytes(request.root_key_pem.encode())
        return checked_root(request.root_certificate_pem.encode(), key, now)
