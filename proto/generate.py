"""Make the gRPC stubs beside their .proto files: `python proto/generate.py`, or `--check` to compare only."""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
PROTOS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("swarmnet/**/*.proto"))


def generate(out: Path) -> None:
    well_known = files("grpc_tools") / "_proto"
    kinds = ("python", "mypy", "grpc_python", "mypy_grpc")
    plugins = (
        f"--plugin=protoc-gen-{kind}={Path(sys.executable).parent}/protoc-gen-{kind}"
        for kind in ("mypy", "mypy_grpc")
    )
    paths = (f"--proto_path={ROOT}", f"--proto_path={well_known}")
    if protoc.main(["protoc", *plugins, *paths, *(f"--{kind}_out={out}" for kind in kinds), *PROTOS]):
        sys.exit("protoc failed")


def stale(fresh: Path) -> list[str]:
    """Stubs that differ from a fresh run, are missing, or belong to no .proto."""
    made = {path.relative_to(fresh): path.read_bytes() for path in fresh.rglob("*.py*")}
    kept = {
        path.relative_to(ROOT): path.read_bytes()
        for path in ROOT.glob("swarmnet/**/*_pb2*.py*")
        if path.suffix != ".pyc"
    }
    return sorted(str(name) for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))


def main() -> None:
    if sys.argv[1:] != ["--check"]:
        generate(ROOT)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        if names := stale(Path(folder)):
            sys.exit("stubs are not current, run `make proto`: " + ", ".join(names))


if __name__ == "__main__":
    main()
