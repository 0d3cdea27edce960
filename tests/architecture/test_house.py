"""The house keeps its shape: sizes, adapters, purity, and what may not be in the repository."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "client",
    "contracts",
    "examples",
    "experiment_svc",
    "feature_svc",
    "gateway",
    "monitor_svc",
    "plugins",
    "registry_svc",
    "service_kit",
    "serving_svc",
    "training_svc",
)
SERVICES = tuple(name for name in PACKAGES if name.endswith("_svc"))
MODULE_LINES, FUNCTION_LINES, SMALL = 400, 60, 25

TOOLS = {
    "alibi_detect": (),
    "dbos": ("service_kit/durable/",),
    "feast": ("feature_svc/feast_store.py",),
    "lightgbm": ("serving_svc/runtimes/lightgbm_booster.py", "training_svc/trainers.py"),
    "mlflow": ("training_svc/mlflow_store.py", "serving_svc/runtimes/guest_mlflow.py"),
    "onnxruntime": ("serving_svc/runtimes/onnx_session.py", "training_svc/quantization.py"),
    "ray": (
        "serving_svc/batch/ray_child.py",
        "serving_svc/replicas/serve_child.py",
        "training_svc/ray_child.py",
    ),
    "safetensors": ("serving_svc/runtimes/torch_safetensors.py",),
    "skops": ("serving_svc/runtimes/skops_file.py", "training_svc/trainers.py"),
    "torch": ("serving_svc/runtimes/torch_",),
    "xgboost": ("serving_svc/runtimes/xgboost_booster.py", "training_svc/trainers.py"),
}
"""Outside tools and the only places that may import them."""

FRAMEWORKS = {"sqlalchemy", "grpc", "fastapi", "redis", "google", "modelyard", "httpx", "pydantic"}
KIT_IN_DOMAIN = {"service_kit.errors", "service_kit.names"}


@cache
def tracked() -> tuple[Path, ...]:
    """Files under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    found = (ROOT / name for name in listed.stdout.split("\0") if name)
    return tuple(path for path in found if path.is_file())


def modules(package: str) -> list[Path]:
    """Our modules, without tests, generated code and migrations, which list tables."""
    return [
        path
        for path in tracked()
        if path.suffix == ".py"
        and path.is_relative_to(ROOT / package)
        and not {"tests", "gen", "versions"} & set(path.relative_to(ROOT).parts)
    ]


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(path.read_text())


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods of a module."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Modules that a module imports, with the line."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((each.name, node.lineno) for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if "." in node.module:
                yield node.module, node.lineno
            else:  # `from package import module`
                yield from ((f"{node.module}.{each.name}", node.lineno) for each in node.names)


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def at(path: Path, line: int = 1) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


@pytest.mark.parametrize("package", ["bench", *PACKAGES])
def test_modules_and_functions_are_small(package: str) -> None:
    found = modules(package)
    assert found, f"no modules in {package}"
    long_modules = [at(path) for path in found if len(path.read_text().splitlines()) > MODULE_LINES]
    assert long_modules == []
    each = [(length(node), at(path, node.lineno)) for path in found for node in functions(path)]
    assert [where for lines, where in each if lines > FUNCTION_LINES] == []
    if len(each) >= 20:
        share = sum(lines < SMALL for lines, _ in each) / len(each)
        assert share >= 0.9, f"only {share:.0%} of the functions are under {SMALL} lines"


@pytest.mark.parametrize("tool", TOOLS)
def test_each_tool_has_its_adapters(tool: str) -> None:
    allowed = TOOLS[tool]
    strays = [
        at(path, line)
        for package in PACKAGES
        for path in modules(package)
        for name, line in imports(path)
        if name.partition(".")[0] == tool
        and not str(path.relative_to(ROOT)).startswith(allowed or ("-",))
    ]
    assert strays == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_domain_is_pure(service: str) -> None:
    folder = ROOT / service
    domain = [
        path for path in modules(service) if path.relative_to(folder).parts[0].startswith("domain")
    ]
    assert domain, f"{service} has no domain"
    strays = [
        at(path, line)
        for path in domain
        for name, line in imports(path)
        if name.partition(".")[0] in FRAMEWORKS
        or (name.startswith("service_kit") and name not in KIT_IN_DOMAIN)
        or (name.startswith(service) and not name.startswith(f"{service}.domain"))
    ]
    assert strays == []


@pytest.mark.parametrize("service", SERVICES)
def test_use_cases_know_ports_and_no_adapter(service: str) -> None:
    folder = ROOT / service
    known = tuple(f"{service}.{part}" for part in ("domain", "service", "ports"))
    strays = [
        at(path, line)
        for path in modules(service)
        if path.relative_to(folder).parts[0].startswith("service")
        for name, line in imports(path)
        if (name.startswith(service) and not name.startswith(known))
        or name.partition(".")[0] in FRAMEWORKS - {"pydantic"}
    ]
    assert strays == []


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_inside(service: str) -> None:
    folder = ROOT / service
    for part in ("domain", "service", "api", "storage"):
        there = (folder / f"{part}.py").is_file() or (folder / part / "__init__.py").is_file()
        assert there, f"{service} lacks {part}"
    assert (folder / "__main__.py").is_file()
    assert list((folder / "migrations" / "versions").glob("0001_*.py"))


@pytest.mark.parametrize("package", ["service_kit", *(f"{name}/domain" for name in SERVICES)])
def test_public_things_are_explained(package: str) -> None:
    silent = []
    for path in modules(package.partition("/")[0]):
        if not str(path.relative_to(ROOT)).startswith(package):
            continue
        if ast.get_docstring(parsed(path)) is None and path.read_text().strip():
            silent.append(at(path))
        for node in parsed(path).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if public and not node.name.startswith("_") and ast.get_docstring(node) is None:
                silent.append(at(path, node.lineno))
    assert silent == []


def test_generated_code_is_not_checked_in() -> None:
    generated = [at(path) for path in tracked() if re.search(r"_pb2(_grpc)?\.pyi?$", path.name)]
    assert generated == []


def test_constraints_pin_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert len(lines) > 100
    odd = [
        line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^\s;]+", line)
    ]
    assert odd == []


def test_no_address_of_a_registry_or_of_somebodys_machine() -> None:
    forbidden = re.compile(
        "|".join(["pypi" + r"\.org", "pythonhosted" + r"\.org", "/work" + "/main", "/tmp" + "/w/"])
    )
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [
            at(path, number)
            for number, line in enumerate(text.splitlines(), 1)
            if forbidden.search(line)
        ]
    assert found == []
