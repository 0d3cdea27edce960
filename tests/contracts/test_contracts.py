"""The contracts: lint, compatibility, and what every method owes its callers."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from modelyard.auth.v1 import auth_pb2

from contracts.generate import ROOT, include_dirs, proto_files

BUF = Path(sys.executable).with_name("buf")
RELEASED = ROOT / "released.binpb"

WITHOUT_REQUEST_ID = {
    "WriteArtifact": "an artifact is addressed by its content",
    "AnalyzeExperiment": "a look at the same data gives the same analysis",
}
"""Methods with effects that need no idempotency key, and why."""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The contracts with google's own protos beside them: buf may fetch nothing."""
    for name in ("modelyard", "inference"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    for folder in include_dirs():
        for area in ("api", "rpc"):
            for proto in (folder / "google" / area).glob("*.proto"):
                target = tmp_path / "google" / area / proto.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(proto, target)
    return tmp_path


def buf(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BUF), *arguments], cwd=workspace, capture_output=True, text=True, timeout=120
    )


def methods() -> Iterator[tuple[ServiceDescriptor, MethodDescriptor]]:
    """Methods of every service that the gateway publishes."""
    for path in proto_files():
        if path.parts[0] != "modelyard":
            continue
        module = importlib.import_module(str(path.with_suffix("")).replace("/", ".") + "_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            if service.GetOptions().Extensions[auth_pb2.internal]:
                continue
            for method in service.methods:
                yield service, method


METHODS = [pytest.param(method, id=method.full_name) for _, method in methods()]


def test_there_are_methods_to_check() -> None:
    assert len(METHODS) > 60


def test_buf_finds_nothing_to_complain_about(workspace: Path) -> None:
    checked = buf(workspace, "lint", "--path", "modelyard")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_buf_would_complain(workspace: Path) -> None:
    proto = workspace / "modelyard" / "registry" / "v1" / "registry.proto"
    proto.write_text(proto.read_text().replace("string owner = 3;", "string OwnerOfIt = 3;"))
    assert buf(workspace, "lint", "--path", "modelyard").returncode != 0


def image(workspace: Path, name: str) -> Path:
    built = buf(workspace, "build", "-o", name)
    assert built.returncode == 0, built.stdout + built.stderr
    return workspace / name


def test_a_removed_field_would_be_noticed(workspace: Path) -> None:
    before = image(workspace, "before.binpb")
    proto = workspace / "modelyard" / "registry" / "v1" / "registry.proto"
    removed = "  // Team or person that answers for it.\n  string owner = 3;\n"
    assert removed in proto.read_text()
    proto.write_text(proto.read_text().replace(removed, ""))
    checked = buf(workspace, "breaking", "--against", str(before))
    assert checked.returncode != 0
    assert "owner" in checked.stdout


def test_the_last_release_still_holds(workspace: Path) -> None:
    if not RELEASED.is_file():
        pytest.skip("nothing is released yet; a release records its image in contracts/")
    checked = buf(workspace, "breaking", "--against", str(RELEASED))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("string runtime = 6;", "string runtime = 60;"),
        ("string runtime = 6;", "bytes runtime = 6;"),
        ("string runtime = 6;", ""),
        ("rpc GetModel(GetModelRequest)", "rpc FetchModel(GetModelRequest)"),
    ],
)
def test_a_change_that_would_break_callers_is_found(
    workspace: Path, before: str, after: str
) -> None:
    against = image(workspace, "now.binpb")
    contract = workspace / "modelyard" / "registry" / "v1" / "registry.proto"
    text = contract.read_text()
    assert before in text
    contract.write_text(text.replace(before, after))
    checked = buf(workspace, "breaking", "--against", str(against))
    assert checked.returncode != 0
    assert "registry.proto" in checked.stdout


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_who_may_call_it_and_how(method: MethodDescriptor) -> None:
    options = method.GetOptions()
    rule = options.Extensions[annotations_pb2.http]
    path = next(
        (
            getattr(rule, verb)
            for verb in ("get", "post", "put", "patch", "delete")
            if getattr(rule, verb)
        ),
        "",
    )
    assert path.startswith("/v1/"), "needs an HTTP rule below /v1/"
    scope = options.Extensions[auth_pb2.scope]
    area, _, action = scope.partition(":")
    assert area, "needs a scope"
    assert action in {"read", "write", "approve", "run", "predict", "report"}
    level = options.idempotency_level
    assert level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN
    if rule.get:
        assert level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    has_effects = level == descriptor_pb2.MethodOptions.IDEMPOTENT
    if has_effects and method.name not in WITHOUT_REQUEST_ID:
        assert "request_id" in method.input_type.fields_by_name, "needs an idempotency key"


@pytest.mark.parametrize("method", METHODS)
def test_listings_come_in_pages(method: MethodDescriptor) -> None:
    if method.name.startswith("List"):
        assert {"page_size", "page_token"} <= set(method.input_type.fields_by_name)
        assert "next_page_token" in method.output_type.fields_by_name


def test_everything_has_a_comment(tmp_path: Path) -> None:
    from grpc_tools import protoc

    target = tmp_path / "set.binpb"
    status = protoc.main(
        [
            "protoc",
            f"-I{ROOT}",
            *(f"-I{path}" for path in include_dirs()),
            "--include_source_info",
            f"--descriptor_set_out={target}",
            *map(str, proto_files()),
        ]
    )
    assert status == 0
    found = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    silent = [f"{file.name}: {name}" for file in found.file for name in uncommented(file)]
    assert silent == []


def uncommented(file: descriptor_pb2.FileDescriptorProto) -> list[str]:
    """Names of messages, fields, enums, values, services and methods without a comment."""
    comments = {
        tuple(place.path): place.leading_comments.strip()
        for place in file.source_code_info.location
    }
    return [name for path, name in elements(file) if not comments.get(path)]


Place = tuple[int, ...]


def elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[Place, str]]:
    """Everything in a file that a reader may look up, with its path in the descriptor."""
    for at, message in enumerate(file.message_type):
        yield from of_message((4, at), message)
    for at, enum in enumerate(file.enum_type):
        yield from of_enum((5, at), enum)
    for at, service in enumerate(file.service):
        yield (6, at), service.name
        for number, method in enumerate(service.method):
            yield (6, at, 2, number), f"{service.name}.{method.name}"


def of_message(path: Place, message: descriptor_pb2.DescriptorProto) -> Iterator[tuple[Place, str]]:
    if message.options.map_entry:
        return
    yield path, message.name
    for at, field in enumerate(message.field):
        yield (*path, 2, at), f"{message.name}.{field.name}"
    for at, nested in enumerate(message.nested_type):
        yield from of_message((*path, 3, at), nested)
    for at, enum in enumerate(message.enum_type):
        yield from of_enum((*path, 4, at), enum)


def of_enum(path: Place, enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[tuple[Place, str]]:
    yield path, enum.name
    for at, value in enumerate(enum.value):
        yield (*path, 2, at), f"{enum.name}.{value.name}"


def test_the_http_face_is_the_recorded_one() -> None:
    """No buf rule sees a changed path: the document is held against the recorded one."""
    written = subprocess.run(
        [sys.executable, "-m", "gateway.openapi"], check=True, capture_output=True, timeout=120
    )
    golden = (ROOT / "openapi.json").read_bytes()
    assert written.stdout == golden, "run `make openapi` when the change is meant"
