"""Generates the Python stubs of the contracts into `contracts/gen`.

Run as `python -m contracts.generate`; the build calls it too. The stubs are not
checked in: protoc's output depends on its version, the contracts do not.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OUT = ROOT / "gen"
DESCRIPTORS = "modelyard/descriptors.binpb"
"""Descriptor set of all contracts with their comments, below `OUT`; the API pages come of it."""


def proto_files(root: Path = ROOT) -> list[Path]:
    """Lists the contract files, relative to `root`, in a stable order."""
    found = [*root.glob("modelyard/**/*.proto"), *root.glob("inference/**/*.proto")]
    return sorted(path.relative_to(root) for path in found)


def include_dirs() -> list[Path]:
    """Lists the folders that hold google's own imports: well-known types, api and rpc."""
    well_known = Path(str(resources.files("grpc_tools"))) / "_proto"
    annotations = importlib.util.find_spec("google.api.annotations_pb2")
    if annotations is None or annotations.origin is None:
        raise SystemExit("googleapis-common-protos is missing: pip install -c constraints.txt .")
    return [well_known, Path(annotations.origin).parents[2]]


def generate(out: Path = OUT) -> None:
    """Writes fresh stubs to `out`, replacing what is there only when all went well."""
    from grpc_tools import protoc

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".gen-") as scratch:
        target = Path(scratch) / "gen"
        (target / DESCRIPTORS).parent.mkdir(parents=True)
        status = protoc.main(
            [
                "protoc",
                f"-I{ROOT}",
                *(f"-I{path}" for path in include_dirs()),
                f"--python_out={target}",
                f"--pyi_out={target}",
                f"--grpc_python_out={target}",
                f"--descriptor_set_out={target / DESCRIPTORS}",
                "--include_imports",
                "--include_source_info",
                *(str(path) for path in proto_files()),
            ]
        )
        if status != 0:
            raise SystemExit(f"protoc failed with status {status}")
        shutil.rmtree(out, ignore_errors=True)
        target.rename(out)


if __name__ == "__main__":
    generate()
    sys.stdout.write(f"generated {len(proto_files())} contracts\n")
