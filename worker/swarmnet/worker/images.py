"""The images that this worker can run: one folder each below its image store, the folder's name the image's.

    NAME/rootfs/          a root filesystem as plain files, and perhaps a config.json as in an OCI image
    NAME/oci-layout ...   an OCI image layout, unpacked below the state directory when it is first used

`host` is always there: the host's own files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from swarmnet.core.errors import FailedPrecondition, NotFound
from swarmnet.worker import oci

HOST: Final = "host"
DEFAULT_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Image:
    """`root` is / for the host. `user` is (uid, gid); `command` what to run when a service names nothing."""

    root: Path
    command: tuple[str, ...] = ()
    variables: tuple[str, ...] = (DEFAULT_PATH,)
    workdir: str = "/"
    user: tuple[int, int] = (0, 0)


class ImageStore:
    """Reads `store`; keeps what it unpacks in `unpacked`. Its methods block: run them on a thread."""

    def __init__(self, store: Path, unpacked: Path) -> None:
        self._store = store
        self._unpacked = unpacked

    def names(self) -> tuple[str, ...]:
        """What managers may place here."""
        if not self._store.is_dir():
            return (HOST,)
        found = (each.name for each in self._store.iterdir() if _is_plain(each) or oci.is_layout(each))
        return (HOST, *sorted(name for name in found if name != HOST))

    def prepare(self, name: str) -> Image:
        """The image, ready to run. NotFound; FailedPrecondition for a damaged one."""
        if name == HOST:
            return Image(Path("/"))
        if name not in self.names():
            raise NotFound(
                f"no such image on this node: {name}",
                hint=f"This node has: {', '.join(self.names())}. Put a folder {name}/rootfs or an OCI image "
                f"layout into {self._store}.",
            )
        folder = self._store / name
        try:
            if _is_plain(folder):
                return _image(folder / "rootfs", _read_config(folder / "config.json"))
            root, config = oci.unpack(folder, self._unpacked)
            return _image(root, config.get("config") or {})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FailedPrecondition(
                f"image {name} cannot be used: {error}", hint=f"Put it into {self._store} anew."
            ) from error


def _is_plain(folder: Path) -> bool:
    return (folder / "rootfs").is_dir()


def _read_config(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    config: Mapping[str, Any] = json.loads(path.read_bytes()).get("config") or {}
    return config


def _image(root: Path, config: Mapping[str, Any]) -> Image:
    """https://github.com/opencontainers/image-spec/blob/main/config.md"""
    variables = tuple(config.get("Env") or ())
    if not any(each.startswith("PATH=") for each in variables):
        variables = (DEFAULT_PATH, *variables)
    return Image(
        root=root,
        command=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
        variables=variables,
        workdir=config.get("WorkingDir") or "/",
        user=_user(root, config.get("User") or ""),
    )


def _user(root: Path, text: str) -> tuple[int, int]:
    """`user[:group]` by number or by name in the image's own files. ValueError if it has no such name."""
    user, _, group = text.partition(":")
    etc = oci.inside(root, "etc")
    uid, gid = _lookup(etc / "passwd", user, 3) if user else (0, 0)
    return (uid, _lookup(etc / "group", group, 2)[0] if group else gid)


def _lookup(path: Path, name: str, id_column: int) -> tuple[int, int]:
    """The id of a name, and the number in the column after it (a user's group), 0 if there is none."""
    lines = path.read_text().splitlines() if path.is_file() and not path.is_symlink() else []
    for fields in (line.split(":") for line in lines):
        number = fields[id_column - 1] if len(fields) >= id_column else ""
        if number.isdecimal() and name in (fields[0], number):
            after = fields[id_column] if len(fields) > id_column else ""
            return int(number), int(after) if after.isdecimal() else 0
    if name.isdecimal():
        return int(name), 0
    raise ValueError(f"it has no user or group {name!r}")
