"""Mutual TLS of the managers' Raft: TLS 1.3, this swarm's root alone, and the certificate as it is now."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Final

from cryptography import x509

from swarmnet.core.errors import Internal
from swarmnet.manager.ca.credentials import Credentials, subject_of
from swarmnet.manager.identity import CallerRole

_PROTOCOL: Final = "swarmnet-raft/1"


class PeerSecurity:
    """`current` gives this manager's credentials, which a renewal replaces."""

    def __init__(self, current: Callable[[], Credentials]) -> None:
        self._current = current
        self._loaded: tuple[Credentials, ssl.SSLContext, ssl.SSLContext] | None = None

    def client(self) -> ssl.SSLContext:
        """Checks that the other end's certificate names who is asked for."""
        return self._contexts()[0]

    def server(self) -> ssl.SSLContext:
        """For one connection that came in."""
        return self._contexts()[1]

    def manager_of(self, certificate: bytes) -> str | None:
        """The node id of a certificate (DER) that TLS has checked, if it is a manager's of this swarm."""
        try:
            subject = subject_of(x509.load_der_x509_certificate(certificate))
        except (ValueError, Internal):
            return None
        ours = self._current().subject.cluster_id
        return subject.node_id if (subject.role, subject.cluster_id) == (CallerRole.MANAGER, ours) else None

    def _contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        mine = self._current()
        if self._loaded is None or self._loaded[0] is not mine:
            client, server = (
                _context(mine, kind) for kind in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)
            )
            server.num_tickets = 0  # nobody resumes: a fresh handshake looks at fresh certificates
            self._loaded = (mine, client, server)
        return self._loaded[1], self._loaded[2]


def _context(mine: Credentials, kind: int) -> ssl.SSLContext:
    context = ssl.SSLContext(kind)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=mine.root_pem.decode())
    context.set_alpn_protocols([_PROTOCOL])
    _load(context, mine)
    return context


def _load(context: ssl.SSLContext, mine: Credentials) -> None:
    """OpenSSL takes a key from a file only: one that no file system has."""
    descriptor = os.memfd_create("credentials", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, mine.certificate_pem + mine.key.reveal())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
