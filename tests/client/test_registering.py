"""A model file made a version by the SDK and the command, against a real HTTP server."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from client import Client, ConversionRefused, ModelyardError, ProblemError
from client.cli import app
from client.cli_models import read_rows
from client.registering import format_of
from client.sdk import CHUNK
from tests.client.gateway import Gateway

FILE, ROWS = "artifacts/f", "artifacts/r"
SAMPLE = pd.DataFrame({"hour": [1.0, 2.0], "temp": [None, 3.0], "modelyard.label": [0, 1]})
MADE = {
    "name": "conversions/c",
    "state": "STATE_SUCCEEDED",
    "reason": "onnx: alike",
    "runtime": "onnx",
    "artifacts": [{"role": "model", "artifact": "artifacts/o"}],
    "parity_reports": [{"method": "onnx", "passed": True, "reason": "alike"}],
}
VERSION = {**MADE, "name": "models/late/versions/1"}
STORED = [(200, {"name": FILE}), (200, {"name": ROWS})]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.txt"
    path.write_bytes(b"tree")
    return path


def body_of(gateway: Gateway, path: str) -> Any:
    (found,) = [body for _, asked, _, body in gateway.calls if asked.partition("?")[0] == path]
    return found


def test_a_file_is_stored_converted_and_registered(
    gateway: Gateway, client: Client, file: Path
) -> None:
    exists = (409, {"reason": "MODEL_EXISTS"})
    running = (200, {**MADE, "state": "STATE_RUNNING"})
    gateway.answers = [*STORED, running, running, (200, MADE), exists, (200, VERSION)]
    version = client.register_model(
        "late", file, SAMPLE, quantize=True, tolerance=0.01, owner="ops",
        version={"description": "by hand"},
    )  # fmt: skip
    assert version == VERSION
    (source,) = gateway.calls[0][3]
    assert base64.b64decode(source["chunk"]) == b"tree"
    assert source["sha256"] == hashlib.sha256(b"tree").hexdigest()
    (rows,) = gateway.calls[1][3]
    table = pa.ipc.open_stream(base64.b64decode(rows["chunk"])).read_all()
    assert table.column_names == ["hour", "temp", "modelyard.label"]
    assert body_of(gateway, "/v1/conversions") == {
        "source": FILE,
        "format": "lightgbm",
        "sample": ROWS,
        "spec": {"quantize": True, "tolerance": 0.01},
        "output_count": 1,
    }
    assert body_of(gateway, "/v1/models") == {"owner": "ops"}
    sent = body_of(gateway, "/v1/models/late/versions")
    numeric = {"kind": "KIND_NUMERIC", "source": "SOURCE_REQUEST"}
    assert sent == {
        "description": "by hand",
        "signature": {
            "inputs": [
                {"name": "hour", "required": True, **numeric},
                {"name": "temp", "required": False, **numeric},
            ],
            "outputs": ["score"],
        },
        "runtime": "onnx",
        "artifacts": MADE["artifacts"],
        "parity_reports": MADE["parity_reports"],
    }


@pytest.mark.parametrize("state", ["STATE_REFUSED", "STATE_FAILED"])
def test_what_was_not_converted_is_not_registered(
    gateway: Gateway, client: Client, file: Path, state: str
) -> None:
    refused = {**MADE, "state": state, "reason": "200 rows differ"}
    gateway.answers = [*STORED, (200, refused), (200, refused)]
    with pytest.raises(ConversionRefused, match="200 rows differ") as caught:
        client.register_model("late", file, SAMPLE)
    assert caught.value.conversion["parity_reports"] == MADE["parity_reports"]
    assert not [path for _, path, *_ in gateway.calls if path.startswith("/v1/models")]


def test_a_file_may_be_registered_as_it_is(gateway: Gateway, client: Client, file: Path) -> None:
    gateway.answers = [*STORED, (200, {}), (200, VERSION)]
    client.register_model("late", file, SAMPLE, convert=False)
    sent = body_of(gateway, "/v1/models/late/versions")
    assert sent["runtime"] == "lightgbm"
    assert [(each["role"], each["artifact"]) for each in sent["artifacts"]] == [
        ("model", FILE),
        ("sample", ROWS),
    ]
    assert "parity_reports" not in sent


def test_another_refusal_of_the_registry_is_raised(
    gateway: Gateway, client: Client, file: Path
) -> None:
    gateway.answers = [*STORED, (200, MADE), (200, MADE), (403, {"reason": "SCOPE_MISSING"})]
    with pytest.raises(ProblemError, match="SCOPE_MISSING"):
        client.register_model("late", file, SAMPLE)


def test_a_signature_must_be_that_of_the_sample(
    gateway: Gateway, client: Client, file: Path
) -> None:
    signature = {"inputs": [{"name": "temp"}, {"name": "hour"}], "outputs": ["score"]}
    with pytest.raises(ModelyardError, match="hour, temp, and the signature the inputs temp, hour"):
        client.register_model("late", file, SAMPLE, version={"signature": signature})
    assert gateway.calls == []


def test_formats_go_by_the_ending() -> None:
    found = [format_of(Path(name)) for name in ("m.txt", "M.UBJ", "m.json", "m.skops", "m.onnx")]
    assert found == ["lightgbm", "xgboost", "xgboost", "skops", "onnx"]
    with pytest.raises(ModelyardError, match=r"the ending of m\.pkl tells no format"):
        format_of(Path("m.pkl"))


def test_large_content_goes_in_chunks(gateway: Gateway, client: Client) -> None:
    gateway.answers = [(200, {"name": FILE}), (200, {"name": FILE})]
    content = bytes(range(256)) * (CHUNK // 128)
    assert client.write_artifact(content) == FILE
    lines = gateway.calls[0][3]
    assert [len(base64.b64decode(each["chunk"])) for each in lines] == [CHUNK, CHUNK]
    assert ["sha256" in each for each in lines] == [True, False]
    client.write_artifact(b"")
    assert gateway.calls[1][3] == [{"chunk": "", "sha256": hashlib.sha256(b"").hexdigest()}]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.csv", lambda path: SAMPLE.to_csv(path, index=False)),
        ("rows.parquet", lambda path: SAMPLE.to_parquet(path)),
    ],
)
def test_the_command_registers_and_says_what_was_made(
    gateway: Gateway,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    write: Callable[[Path], None],
) -> None:
    monkeypatch.setenv("MODELYARD_URL", gateway.url)
    rows = file.with_name(name)
    write(rows)
    gateway.answers = [*STORED, (200, MADE), (200, MADE), (200, {}), (200, VERSION)]
    answer = CliRunner().invoke(
        app, ["models", "register", "late", str(file), "--sample", str(rows), "--quantize"]
    )
    assert answer.exit_code == 0, answer.output
    assert "models/late/versions/1 served by onnx" in answer.output
    assert "✓ onnx: alike" in answer.output
    assert body_of(gateway, "/v1/conversions")["spec"] == {"quantize": True}
    sent = body_of(gateway, "/v1/models/late/versions")["signature"]["inputs"]
    assert [(each["name"], each["required"]) for each in sent] == [("hour", True), ("temp", False)]


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    for name in ("rows.xlsx", "rows.parquet", "rows.arrow"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(ModelyardError, match="can't be read as a table"):
            read_rows(tmp_path / name)
