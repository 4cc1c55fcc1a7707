"""Images: plain folders and OCI layouts, and layers that try to get out of their root."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarmnet.core.errors import FailedPrecondition, NotFound
from swarmnet.worker.images import DEFAULT_PATH, HOST, ImageStore

Layer = list[tuple[tarfile.TarInfo, bytes]]


def file(name: str, content: bytes = b"x", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    return info, content


def folder(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info, b""


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


class Layout:
    """An OCI image layout in the making."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, raw: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(raw).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(raw)
        return {"digest": f"sha256:{digest}", "size": len(raw)}

    def layer(self, entries: Layer, *, compressed: bool = True) -> dict[str, Any]:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for info, content in entries:
                archive.addfile(info, io.BytesIO(content))
        raw = gzip.compress(buffer.getvalue()) if compressed else buffer.getvalue()
        kind = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if compressed else "")
        return self.blob(raw) | {"mediaType": kind}

    def finish(self, *layers: dict[str, Any], config: dict[str, Any] | None = None) -> None:
        described = self.blob(json.dumps({"config": config or {}}).encode())
        manifest = self.blob(json.dumps({"config": described, "layers": layers}).encode())
        (self.path / "index.json").write_text(json.dumps({"manifests": [manifest]}))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store", tmp_path / "unpacked")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "store/web")


def test_host_is_always_there(store: ImageStore) -> None:
    assert store.names() == (HOST,)
    assert store.prepare(HOST).root == Path("/")


def test_an_unknown_image_is_named_with_those_that_there_are(store: ImageStore, layout: Layout) -> None:
    with pytest.raises(NotFound, match="no such image on this node: nginx") as caught:
        store.prepare("nginx")
    assert "This node has: host, web." in caught.value.hint


@pytest.mark.parametrize("name", ["..", ".", "", "../store/web", "web/../web"])
def test_a_name_is_no_path(store: ImageStore, layout: Layout, name: str) -> None:
    with pytest.raises(NotFound):
        store.prepare(name)


def test_a_plain_folder_is_run_where_it_is(store: ImageStore, tmp_path: Path) -> None:
    root = tmp_path / "store/tool/rootfs"
    root.mkdir(parents=True)
    image = store.prepare("tool")
    assert (image.root, image.command, image.variables) == (root, (), (DEFAULT_PATH,))


def test_a_layout_is_unpacked_and_its_configuration_kept(store: ImageStore, layout: Layout) -> None:
    layers = [
        layout.layer([folder("etc"), file("etc/passwd", b"web:x:1000:50::/:/bin/sh\n"), folder("bin")]),
        layout.layer([file("bin/run", b"#!", 0o4755)], compressed=False),
    ]
    config = {"Entrypoint": ["/bin/run"], "Cmd": ["-v"], "Env": ["A=1"], "WorkingDir": "/srv", "User": "web"}
    layout.finish(*layers, config=config)
    image = store.prepare("web")
    assert stat.S_IMODE((image.root / "bin/run").stat().st_mode) == 0o4755
    assert image.command == ("/bin/run", "-v")
    assert image.variables == (DEFAULT_PATH, "A=1")
    assert (image.workdir, image.user) == ("/srv", (1000, 50))
    assert store.prepare("web").root == image.root


def test_later_layers_take_away_what_earlier_ones_had(store: ImageStore, layout: Layout) -> None:
    layout.finish(
        layout.layer([folder("a"), file("a/one"), file("a/two"), folder("b"), file("b/old")]),
        layout.layer([file("a/.wh.one"), folder("b"), file("b/.wh..wh..opq"), file("b/new")]),
    )
    root = store.prepare("web").root
    found = sorted(str(each.relative_to(root)) for each in root.rglob("*") if each.is_file())
    assert found == ["a/two", "b/new"]


def test_links_are_followed_inside_the_root(store: ImageStore, layout: Layout) -> None:
    layout.finish(
        layout.layer([folder("usr"), folder("usr/lib"), link("lib", "/usr/lib"), file("lib/c.so", b"so")])
    )
    assert (store.prepare("web").root / "usr/lib/c.so").read_bytes() == b"so"


def _escapes(outside: Path) -> list[Layer]:
    climb = "../" * 20
    return [
        [file(f"{climb}{outside}")],
        [file(str(outside))],
        [link("out", f"{climb}{outside.parent}"), file(f"out/{outside.name}")],
        [link("out", str(outside.parent)), file(f"out/{outside.name}")],
        [link("out", str(outside)), file("out")],
        [link("out", f"{climb}{outside}", tarfile.LNKTYPE), file("out", b"changed")],
        [link("out", str(outside.parent)), file(f"out/.wh.{outside.name}")],
        [link("out", str(outside.parent)), file("out/.wh..wh..opq")],
    ]


@pytest.mark.parametrize("case", range(8))
def test_no_layer_gets_out_of_its_root(store: ImageStore, layout: Layout, tmp_path: Path, case: int) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"safe")
    layout.finish(layout.layer(_escapes(outside)[case]))
    with contextlib.suppress(FailedPrecondition):
        store.prepare("web")
    assert outside.read_bytes() == b"safe"


def _wrong_digest(layout: Layout) -> None:
    layer = layout.layer([file("a")])
    layout.finish(layer)
    (layout.path / "blobs/sha256" / layer["digest"].removeprefix("sha256:")).write_bytes(b"other")


def _missing_layer(layout: Layout) -> None:
    layout.finish({"digest": "sha256:" + "0" * 64, "mediaType": "application/vnd.oci.image.layer.v1.tar"})


def _climbing_digest(layout: Layout) -> None:
    layout.finish({"digest": "sha256:../../oci-layout", "mediaType": "tar"})


def _unknown_kind(layout: Layout) -> None:
    layout.finish(layout.layer([file("a")]) | {"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd"})


def _no_tar(layout: Layout) -> None:
    layout.finish(layout.blob(b"junk" * 200) | {"mediaType": "application/vnd.oci.image.layer.v1.tar"})


def _loop(layout: Layout) -> None:
    layout.finish(layout.layer([link("a", "b"), link("b", "a"), file("a/x")]))


def _unknown_user(layout: Layout) -> None:
    layout.finish(layout.layer([file("a")]), config={"User": "nobody-there"})


def _no_index(layout: Layout) -> None:
    (layout.path / "index.json").write_text("{")


@pytest.mark.parametrize(
    "damage",
    [
        _wrong_digest,
        _missing_layer,
        _climbing_digest,
        _unknown_kind,
        _no_tar,
        _loop,
        _unknown_user,
        _no_index,
    ],
)
def test_a_damaged_image_is_refused_by_name(
    store: ImageStore, layout: Layout, damage: Callable[[Layout], None]
) -> None:
    damage(layout)
    with pytest.raises(FailedPrecondition, match="image web cannot be used: "):
        store.prepare("web")
    assert list(store._unpacked.glob("*/rootfs.new")) == []
