"""Unpacking an OCI image layout (https://github.com/opencontainers/image-spec), every blob's digest checked.

Layers come from whoever made the image: no entry of theirs gets outside of the root that is being unpacked,
by its name, through a symbolic link or as a hard link.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_MAX_LINKS: Final = 40
_MAX_BLOB_BYTES: Final = 2 << 30


def is_layout(folder: Path) -> bool:
    return (folder / "oci-layout").is_file()


def unpack(layout: Path, target: Path) -> tuple[Path, Mapping[str, Any]]:
    """The root filesystem below `target`, made unless it is there already, and the image's configuration.

    ValueError for a damaged layout or a form that is not supported; what was unpacked so far is removed.
    """
    manifest = _manifest(layout)
    config: Mapping[str, Any] = json.loads(_blob(layout, manifest["config"]["digest"]))
    root = target / manifest["config"]["digest"].partition(":")[2] / "rootfs"
    if not root.exists():
        fresh = root.with_name("rootfs.new")
        _remove(fresh)
        fresh.mkdir(mode=0o755, parents=True)
        fresh.chmod(0o755)
        try:
            for layer in manifest["layers"]:
                _apply(_decompressed(_blob(layout, layer["digest"]), layer["mediaType"]), fresh)
        except (tarfile.TarError, zlib.error, EOFError) as error:
            _remove(fresh)
            raise ValueError(f"a layer cannot be read: {error}") from error
        except BaseException:
            _remove(fresh)
            raise
        fresh.replace(root)
    return root, config


def _manifest(layout: Path) -> Any:
    """The manifest for this machine, by way of indices if need be."""
    found = json.loads((layout / "index.json").read_bytes())
    for _ in range(3):
        if "manifests" not in found:
            return found
        found = json.loads(_blob(layout, _pick(found["manifests"])["digest"]))
    raise ValueError("its index leads to no manifest")


def _pick(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    for each in manifests:
        wanted = each.get("platform") or {"os": "linux", "architecture": architecture}
        if (wanted["os"], wanted["architecture"]) == ("linux", architecture):
            return each
    raise ValueError(f"it has nothing for linux/{architecture}")


def _blob(layout: Path, digest: str) -> bytes:
    algorithm, _, expected = digest.partition(":")
    if algorithm != "sha256" or len(expected) != 64 or not expected.isalnum():
        raise ValueError(f"digest {digest!r} is not of sha256")
    path = layout / "blobs/sha256" / expected
    if path.stat().st_size > _MAX_BLOB_BYTES:
        raise ValueError(f"blob {digest} is larger than {_MAX_BLOB_BYTES >> 20} MiB")
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != expected:
        raise ValueError(f"blob {digest} does not have that digest")
    return raw


def _decompressed(raw: bytes, media_type: str) -> io.BufferedIOBase:
    if media_type.endswith(("+gzip", ".gzip")):
        return gzip.GzipFile(fileobj=io.BytesIO(raw))
    if media_type.endswith("tar"):
        return io.BytesIO(raw)
    raise ValueError(f"layers of type {media_type} are not supported")


def _apply(layer: io.BufferedIOBase, root: Path) -> None:
    with tarfile.open(fileobj=layer, mode="r|") as archive:
        for entry in archive:
            name = PurePosixPath("/", entry.name).name
            folder = inside(root, str(PurePosixPath(entry.name).parent))
            if name == _OPAQUE:
                _empty(folder)
            elif name.startswith(_WHITEOUT):
                _remove(folder / _checked(name.removeprefix(_WHITEOUT)))
            elif name:
                _place(archive, entry, folder / _checked(name), root)


def _checked(name: str) -> str:
    if name in ("", ".", ".."):
        raise ValueError("a layer has an entry without a name")
    return name


def inside(root: Path, name: str) -> Path:
    """The place of a folder, every link on the way followed as if `root` were /. ValueError for a loop."""
    here, links = root, 0
    todo = [*reversed(PurePosixPath("/", name).parts[1:])]
    while todo:
        part = todo.pop()
        if part == "..":
            here = here.parent if here != root else root
            continue
        step = here / part
        if step.is_symlink():
            links += 1
            if links > _MAX_LINKS:
                raise ValueError(f"too many links on the way to {name}")
            to = PurePosixPath(step.readlink())
            here = root if to.is_absolute() else here
            todo += [each for each in reversed(to.parts) if each != "/"]
        else:
            here = step
    return here


def _place(archive: tarfile.TarFile, entry: tarfile.TarInfo, path: Path, root: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if entry.isdir():
        if path.is_symlink() or not path.is_dir():
            _remove(path)
            path.mkdir()
    elif entry.isfile():
        _remove(path)
        source = archive.extractfile(entry)
        assert source is not None, "regular files have content"
        with path.open("xb") as file:
            shutil.copyfileobj(source, file)
    elif entry.issym():
        _remove(path)
        path.symlink_to(entry.linkname)
    elif entry.islnk():
        _remove(path)
        to = PurePosixPath("/", entry.linkname)
        os.link(inside(root, str(to.parent)) / to.name, path, follow_symlinks=False)
        return
    else:
        return  # devices and pipes: a task's /dev is made for it
    os.lchown(path, entry.uid, entry.gid)
    if not entry.issym():
        path.chmod(entry.mode & 0o7777)


def _empty(folder: Path) -> None:
    if folder.is_dir():
        for each in folder.iterdir():
            _remove(each)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
