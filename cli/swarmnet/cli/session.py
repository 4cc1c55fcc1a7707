"""What one run of `swarmnet` works with: the managers to ask, and the folder of this host's daemons."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property

from swarmnet.cli.connection import Credentials, credentials_in, parse_endpoints
from swarmnet.cli.manager import Manager
from swarmnet.core.errors import InvalidArgument

DEFAULT_RUN_DIR = "/run/swarmnet"
CREDENTIALS_DIR = "~/.config/swarmnet"
_VARIABLES = ("SWARMNET_CACERT", "SWARMNET_CERT", "SWARMNET_KEY")


class Session:
    """Reads SWARMNET_HOST, SWARMNET_CACERT, SWARMNET_CERT, SWARMNET_KEY and SWARMNET_RUN_DIR."""

    def __init__(self, environment: Mapping[str, str], host: str = "") -> None:
        self._environment = environment
        self._host = host or environment.get("SWARMNET_HOST", "")
        self.run_dir = environment.get("SWARMNET_RUN_DIR") or DEFAULT_RUN_DIR

    @cached_property
    def manager(self) -> Manager:
        """The managers asked for, or this host's own. InvalidArgument when the settings make no sense."""
        if not self._host:
            own = f"unix://{self.run_dir}/manager.sock"
            return Manager(parse_endpoints(own), worker_socket=f"{self.run_dir}/worker.sock")
        endpoints = parse_endpoints(self._host)
        return Manager(endpoints, None if endpoints[0].path else self._credentials())

    def _credentials(self) -> Credentials | None:
        given = [self._environment.get(name, "") for name in _VARIABLES]
        if all(given):
            root, certificate, key = map(os.path.expanduser, given)
            return Credentials(root, certificate, key)
        if any(given):
            missing = ", ".join(n for n, value in zip(_VARIABLES, given, strict=True) if not value)
            raise InvalidArgument(f"{missing} not set", hint=f"Set all of {', '.join(_VARIABLES)}, or none.")
        files = credentials_in(os.path.expanduser(CREDENTIALS_DIR))
        return files if os.path.exists(files.certificate) else None

    def close(self) -> None:
        if "manager" in self.__dict__:
            if (credentials := self.manager.certificate_to_renew()) is not None:
                from swarmnet.cli.credentials import renew

                renew(self.manager, credentials)
            self.manager.close()
