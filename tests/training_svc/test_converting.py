"""From a model file of somebody's to the form that serves: real models, in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skops import io

from service_kit.errors import FailedPrecondition
from tests.training_svc.test_quantization import network
from tests.training_svc.test_trainers import Inputs, data
from training_svc.converting import FILES, SAMPLE, SOURCE, convert, read_sample
from training_svc.domain.parity import LABEL, PREDICTION
from training_svc.domain.pipelines import ConversionSpec
from training_svc.scoring import load_model
from training_svc.tables import to_bytes
from training_svc.trainers import PARITY_ROWS

WIDTH = 5


@cache
def rows() -> tuple[Inputs, NDArray[np.float64]]:
    return data(1500)


def whole() -> Inputs:
    """The rows without missing values."""
    return np.nan_to_num(rows()[0])


@cache
def lightgbm_text() -> bytes:
    inputs, labels = rows()
    settings = {"objective": "binary", "verbosity": -1, "num_threads": 1, "seed": 1}
    # As a data frame with names of its own would have it, in float64.
    table = lightgbm.Dataset(inputs.astype(np.float64), labels, feature_name=list("abcde"))
    return str(lightgbm.train(settings, table, 30).model_to_string()).encode()


@cache
def xgboost_json() -> bytes:
    inputs, labels = rows()
    table = xgboost.DMatrix(inputs, labels, feature_names=["temp", "hour", "x y", "é", "last"])
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 4}, table, 30)
    return bytes(booster.save_raw("json"))


@cache
def skops_of(estimator: Any) -> bytes:
    labels = rows()[1].astype(int)
    return bytes(io.dumps(estimator.fit(whole(), labels)))


def sample(inputs: NDArray[np.floating] | None = None, **more: NDArray[Any]) -> bytes:
    table = rows()[0] if inputs is None else inputs
    columns = {name: table[:, at] for at, name in enumerate("abcde")}
    return to_bytes({**columns, **more})


def converted(
    folder: Path, kind: str, source: bytes, rows_: bytes, outputs: int = 1, **spec: Any
) -> dict[str, Any]:
    (folder / SOURCE).write_bytes(source)
    (folder / SAMPLE).write_bytes(rows_)
    request = {"format": kind, "outputs": outputs, "spec": asdict(ConversionSpec(**spec))}
    return convert(folder, request)


def made(folder: Path, answer: dict[str, Any], role: str = "model") -> bytes:
    """The file of a role among what was made."""
    (name,) = [artifact for each, _, artifact, _ in answer["artifacts"] if each == role]
    return (folder / FILES / str(name).partition("/")[2]).read_bytes()


SOURCES: dict[str, Callable[[], bytes]] = {
    "lightgbm": lightgbm_text,
    "xgboost": xgboost_json,
    "skops": lambda: skops_of(RandomForestClassifier(20, max_depth=6, random_state=1)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_model_is_converted_and_scores_as_its_source(tmp_path: Path, kind: str) -> None:
    source, table = SOURCES[kind](), whole()
    answer = converted(tmp_path, kind, source, sample(table))
    assert (answer["state"], answer["runtime"]) == ("SUCCEEDED", "onnx")
    assert answer["inputs"] == list("abcde")
    assert [[each[0], each[1], each[3]] for each in answer["artifacts"]] == [
        ["model", "model.onnx", "onnx"],
        ["source_model", f"model.{kind}", kind],
    ]
    assert made(tmp_path, answer, "source_model") == source
    (report,) = answer["parity_reports"]
    assert report["passed"]
    assert (report["method"], report["row_count"], report["tolerance"]) == ("onnx", 1500, 1e-4)
    assert [report["target"], report["source"]] == [each[2] for each in answer["artifacts"]]
    before = load_model(kind, source, WIDTH)(table)
    after = load_model("onnx", made(tmp_path, answer), WIDTH)(table)
    assert report["max_abs_diff"] == pytest.approx(np.abs(after - before).max())
    assert np.ptp(before) > 0.2


def test_the_same_source_gives_the_same_file(tmp_path: Path) -> None:
    answers = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        answers.append(converted(tmp_path / name, "lightgbm", lightgbm_text(), sample()))
    assert answers[0] == answers[1]


def test_what_no_converter_takes_serves_in_its_own_format_and_says_so(tmp_path: Path) -> None:
    source = skops_of(HistGradientBoostingClassifier(max_iter=20, random_state=1))
    answer = converted(tmp_path, "skops", source, sample(whole()))
    assert (answer["state"], answer["runtime"]) == ("SUCCEEDED", "skops")
    assert [each[0] for each in answer["artifacts"]] == ["model"]
    assert made(tmp_path, answer) == source
    (report,) = answer["parity_reports"]
    assert not report["passed"]
    assert "can't convert a HistGradientBoostingClassifier" in report["reason"]
    assert report["reason"].endswith("skops serves it")
    assert answer["reason"] == f"no onnx: {report['reason']}"


def between_thresholds() -> NDArray[np.float64]:
    """Rows that lie a hair above the thresholds of a model, where float32 has no value."""
    booster = lightgbm.Booster(model_str=lightgbm_text().decode())
    table = rows()[0].astype(np.float64)
    tree = booster.dump_model()["tree_info"][0]["tree_structure"]
    threshold = tree["threshold"]
    table[:200, tree["split_feature"]] = np.nextafter(threshold, np.inf)
    return table


def test_a_model_that_answers_otherwise_in_float32_is_refused(tmp_path: Path) -> None:
    table = between_thresholds()
    said = lightgbm.Booster(model_str=lightgbm_text().decode()).predict(table)
    rows_ = sample(table, **{PREDICTION: said})
    answer = converted(tmp_path, "lightgbm", lightgbm_text(), rows_)
    assert answer["state"] == "REFUSED"
    assert "does not score as the model did" in answer["reason"]
    assert "artifacts" not in answer
    (report,) = answer["parity_reports"]
    assert not report["passed"]
    assert report["share_beyond"] >= 200 / 1500
    assert "target" not in report
    allowed = converted(
        tmp_path, "lightgbm", lightgbm_text(), rows_, max_share_beyond=report["share_beyond"]
    )
    assert allowed["state"] == "SUCCEEDED"


def test_what_was_said_where_it_was_trained_counts(tmp_path: Path) -> None:
    said = load_model("xgboost", xgboost_json(), WIDTH)(rows()[0])
    same = converted(tmp_path, "xgboost", xgboost_json(), sample(**{PREDICTION: said}))
    assert same["state"] == "SUCCEEDED"
    other = converted(tmp_path, "xgboost", xgboost_json(), sample(**{PREDICTION: said + 0.01}))
    assert other["state"] == "REFUSED"
    assert "1500 rows differ by up to 0.01" in other["reason"]


def mlp() -> Any:
    return make_pipeline(
        StandardScaler(), MLPClassifier((64, 64), max_iter=60, random_state=1, tol=1e-2)
    )


@cache
def mlp_file() -> bytes:
    return skops_of(mlp())


def test_a_network_is_converted_and_quantized(tmp_path: Path) -> None:
    labels = {LABEL: rows()[1]}
    answer = converted(
        tmp_path, "skops", mlp_file(), sample(whole(), **labels), quantize=True,
        quantize_tolerance=0.2, quantize_max_share_beyond=0.05,
    )  # fmt: skip
    assert (answer["state"], answer["runtime"]) == ("SUCCEEDED", "onnx")
    names = [each[1] for each in answer["artifacts"]]
    assert names == ["model.onnx", "model.skops", "model.full.onnx"]
    full, small = answer["parity_reports"]
    assert (full["method"], small["method"]) == ("onnx", "int8_dynamic")
    assert full["target"] == small["source"] == answer["artifacts"][2][2]
    assert small["target"] == answer["artifacts"][0][2]
    assert small["target_bytes"] == len(made(tmp_path, answer)) < small["source_bytes"]
    assert abs(small["metric_changes"]["roc_auc"]) < 0.02


def test_a_quantization_that_differs_leaves_the_full_file(tmp_path: Path) -> None:
    answer = converted(
        tmp_path, "onnx", network(), sample(), quantize=True,
        quantize_tolerance=1e-7, quantize_max_share_beyond=0.0,
    )  # fmt: skip
    assert answer["state"] == "SUCCEEDED"
    assert made(tmp_path, answer) == network()
    assert [each["passed"] for each in answer["parity_reports"]] == [True, False]
    assert "no int8_dynamic: " in answer["reason"]
    assert answer["parity_reports"][1]["metric_changes"] == {}


def test_models_of_several_outputs_and_of_numbers(tmp_path: Path) -> None:
    table, labels = whole(), rows()[1]
    three = (labels + (table[:, 1] > 12)).astype(int)
    for name in ("three", "number"):
        (tmp_path / name).mkdir()
    forest = RandomForestClassifier(10, max_depth=5, random_state=1).fit(table, three)
    answer = converted(tmp_path / "three", "skops", io.dumps(forest), sample(table), outputs=3)
    assert (answer["state"], answer["runtime"]) == ("SUCCEEDED", "onnx")
    scores = load_model("onnx", made(tmp_path / "three", answer), WIDTH, 3)(table)
    assert np.allclose(scores, forest.predict_proba(table), atol=1e-5)
    line = LinearRegression().fit(table[:, :1], table[:, 0] * 3)
    one = to_bytes({"a": table[:, 0]})
    answer = converted(tmp_path / "number", "skops", io.dumps(line), one)
    assert answer["parity_reports"][0]["passed"]


@pytest.mark.parametrize(
    ("kind", "source", "why"),
    [
        ("lightgbm", b"tree\nnonsense", "LightGBM refuses it"),
        ("xgboost", b"nonsense", "no XGBoost model"),
        ("skops", b"nonsense", "no skops file"),
        ("onnx", b"nonsense", "ONNX Runtime refuses it"),
    ],
)
def test_a_file_that_holds_no_model_is_refused(
    tmp_path: Path, kind: str, source: bytes, why: str
) -> None:
    with pytest.raises(FailedPrecondition, match=why) as caught:
        converted(tmp_path, kind, source, sample())
    assert caught.value.reason == "MODEL_UNUSABLE"


def test_a_sample_of_another_width_is_refused(tmp_path: Path) -> None:
    narrow = to_bytes({"a": rows()[0][:, 0]})
    with pytest.raises(FailedPrecondition, match="5 inputs, its signature 1"):
        converted(tmp_path, "lightgbm", lightgbm_text(), narrow)
    two = sample(**{PREDICTION: rows()[1]})
    with pytest.raises(FailedPrecondition, match="has one output, not 2"):
        converted(tmp_path, "lightgbm", lightgbm_text(), two, outputs=2)


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense",
        to_bytes({}),
        to_bytes({"a": np.array([], np.float64)}),
        to_bytes({PREDICTION: np.ones(3)}),
        to_bytes({"a": np.ones(3), PREDICTION: np.array(["x", "y", "z"], object)}),
    ],
)
def test_a_sample_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        read_sample(content)
    assert caught.value.reason == "SAMPLE_UNUSABLE"


def test_the_first_rows_of_a_sample_count() -> None:
    many = PARITY_ROWS + 5
    found = read_sample(
        to_bytes({"a": np.arange(many), LABEL: np.arange(many) % 2, PREDICTION: np.zeros(many)})
    )
    assert found.names == ("a",)
    assert found.matrix.shape == (PARITY_ROWS, 1)
    assert found.labels is not None
    assert found.predictions is not None
    assert len(found.labels) == len(found.predictions) == PARITY_ROWS
    one_class = read_sample(to_bytes({"a": np.arange(3), LABEL: np.ones(3)}))
    assert one_class.labels is None
    with pytest.raises(FailedPrecondition, match="the input a is neither a number"):
        read_sample(to_bytes({"a": np.array(["x", "y"], object)}))
