"""What a worker is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Config:
    """`advertise` and `data_path` are IP addresses of this host; `gossip_listen` is host:port.

    `data_path_advertise` is where other workers find `data_path`: another address only behind a NAT.
    """

    state_dir: Path
    run_dir: Path
    advertise: str
    data_path: str
    data_path_advertise: str
    data_path_udp: bool
    gossip_listen: str
    gossip_advertise: str
    image_store: Path
    hostname: str

    @property
    def socket(self) -> Path:
        return self.run_dir / "worker.sock"

    @property
    def manager_socket(self) -> Path:
        """Of the manager daemon on the same host, if there is one."""
        return self.run_dir / "manager.sock"

    @property
    def endpoints(self) -> Path:
        """Other nodes' endpoints, for the next process on this host."""
        return self.run_dir / "endpoints.json"
