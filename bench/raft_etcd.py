"""Three members of etcd on loopback: TLS with client certificates for peers and clients, fsync on."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from bench.raft_load import KEYS, MEMBERS
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.e2e.manager_process import eventually
from tests.ports import free_port

from swarmnet.manager.tls import CHANNEL_OPTIONS

etcd: Any = grpc.protos("bench/etcd.proto")
_HOST: Final = "127.0.0.1"


class EtcdClient:
    def __init__(self, folder: Path, port: int) -> None:
        root, key, certificate = (
            (folder / name).read_bytes() for name in ("root.pem", "key.pem", "certificate.pem")
        )
        credentials = grpc.ssl_channel_credentials(root, key, certificate)
        self._channel = grpc.aio.secure_channel(f"{_HOST}:{port}", credentials, CHANNEL_OPTIONS)
        self._put = self._rpc("KV/Put", etcd.PutResponse)
        self._range = self._rpc("KV/Range", etcd.RangeResponse)
        self._status = self._rpc("Maintenance/Status", etcd.StatusResponse)

    def _rpc(self, name: str, answer: Any) -> Any:
        return self._channel.unary_unary(
            f"/etcdserverpb.{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=answer.FromString,
        )

    async def write(self, key: int, value: str, timeout_s: float | None = None) -> None:
        request = etcd.PutRequest(key=_name(key), value=value.encode())
        await self._put(request, timeout=timeout_s)

    async def read(self, key: int) -> str:
        (found,) = (await self._range(etcd.RangeRequest(key=_name(key), serializable=False))).kvs
        return str(found.value.decode())

    async def status(self) -> Any:
        return await self._status(etcd.StatusRequest(), timeout=1)

    async def close(self) -> None:
        await self._channel.close()


class Etcd:
    def __init__(self, folder: Path) -> None:
        program = shutil.which("etcd")
        if program is None:
            sys.exit("there is no etcd here: `make bench-raft` installs Debian's etcd-server")
        said = subprocess.run([program, "--version"], stdout=subprocess.PIPE, check=True, text=True).stdout
        self.name = f"etcd {said.splitlines()[0].split()[-1]}"
        self._program = program
        self._folder = folder
        self._ports = [free_port() for _ in range(MEMBERS)]
        self._peer_ports = [free_port() for _ in range(MEMBERS)]
        self._processes: dict[int, asyncio.subprocess.Process] = {}

    async def start(self) -> None:
        self._folder.mkdir()
        _write_certificates(self._folder)
        for member in range(MEMBERS):
            await self._launch(member)
        await eventually(self._healthy)
        client = self.client(await self.leader())
        for key in range(KEYS):
            await client.write(key, "first")
        await client.close()

    async def leader(self) -> int:
        """Which member; an error while they do not agree on one."""
        statuses = [await self._status(member) for member in range(MEMBERS)]
        return [each.header.member_id for each in statuses].index(statuses[0].leader)

    def client(self, member: int) -> EtcdClient:
        return EtcdClient(self._folder, self._ports[member])

    unary_client = client

    async def kill(self, member: int) -> None:
        process = self._processes.pop(member)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def restart(self, member: int) -> None:
        await self._launch(member)
        await eventually(self._healthy)

    async def stop(self) -> None:
        for member in list(self._processes):
            await self.kill(member)

    async def _healthy(self) -> bool:
        """All have the same leader, and each accepts a write."""
        leaders = set()
        for member in range(MEMBERS):
            client = self.client(member)
            leaders.add((await client.status()).leader)
            await client.write(0, "healthy")
            await client.close()
        return len(leaders) == 1 and 0 not in leaders

    async def _status(self, member: int) -> Any:
        client = self.client(member)
        try:
            return await client.status()
        finally:
            await client.close()

    async def _launch(self, member: int) -> None:
        with (self._folder / f"{member}.log").open("ab") as log:
            self._processes[member] = await asyncio.create_subprocess_exec(
                self._program, *self._arguments(member), stdout=log, stderr=log
            )

    def _arguments(self, member: int) -> list[str]:
        client, peer = (f"https://{_HOST}:{ports[member]}" for ports in (self._ports, self._peer_ports))
        others = ",".join(f"m{number}=https://{_HOST}:{port}" for number, port in enumerate(self._peer_ports))
        options = {
            "name": f"m{member}",
            "data-dir": f"{self._folder}/{member}",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": others,
            "logger": "zap",
        }
        for prefix in ("", "peer-"):
            options[f"{prefix}trusted-ca-file"] = f"{self._folder}/root.pem"
            options[f"{prefix}cert-file"] = f"{self._folder}/certificate.pem"
            options[f"{prefix}key-file"] = f"{self._folder}/key.pem"
            options[f"{prefix}client-cert-auth"] = "true"
        return [f"--{name}={value}" for name, value in options.items()]


def _name(key: int) -> bytes:
    return b"bench-%03d" % key


def _write_certificates(folder: Path) -> None:
    """A root, and one certificate for members and clients alike: ECDSA P-256, as swarmnet's."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name = _common_name("root")
    root = _builder(root_name, root_name, root_key.public_key())
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address(_HOST))])
    leaf = _builder(_common_name("member"), root_name, key.public_key()).add_extension(
        address, critical=False
    )
    for name, builder in (("root.pem", root), ("certificate.pem", leaf)):
        (folder / name).write_bytes(builder.sign(root_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    raw = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(raw)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _builder(name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )
