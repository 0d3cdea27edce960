"""A version that serves a file keeps the promise that its answers are those of its source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry_svc.documents import from_document, to_document
from registry_svc.domain import (
    ModelVersion,
    ParityReport,
    VersionArtifact,
    check_new_version,
    lineage_graph,
    model_card,
)
from registry_svc.messages import version_from_message, version_to_message
from service_kit.errors import FailedPrecondition, InvalidArgument
from tests.registry_svc.examples import HASH, model, version

SOURCE = "5" * 64
REPORT = ParityReport(
    method="onnx",
    source=SOURCE,
    target=HASH,
    passed=True,
    reason="2000 rows differ by up to 1e-7",
    row_count=2000,
    max_abs_diff=1e-7,
    mean_abs_diff=1e-8,
    share_beyond=0.0,
    tolerance=1e-4,
    max_share_beyond=0.0,
    source_bytes=900,
    target_bytes=1000,
    metric_changes={"roc_auc": -0.001},
)


def converted(**changes: object) -> ModelVersion:
    artifacts = (*version().artifacts, VersionArtifact("source_model", "m.txt", SOURCE, "lightgbm"))
    report = replace(REPORT, **changes)  # type: ignore[arg-type]
    return version(artifacts=artifacts, parity_reports=(report,))


def test_a_report_is_kept_through_document_and_message() -> None:
    made = converted()
    check_new_version(made)
    assert from_document(to_document(made)).parity_reports == made.parity_reports
    again = version_from_message(made.model, version_to_message(made))
    assert again.parity_reports == made.parity_reports
    document = to_document(made)
    del document["parity_reports"]
    assert from_document(document).parity_reports == ()


def test_lineage_and_card_tell_of_it() -> None:
    edge = (f"artifacts/{SOURCE}", f"artifacts/{HASH}")
    assert edge in lineage_graph(converted()).edges
    assert edge not in lineage_graph(version()).edges
    card = model_card(model(), converted(passed=False, target="", reason="too far off"))
    assert "- onnx: refused, too far off" in card


def test_a_file_that_differs_from_its_source_may_not_serve() -> None:
    with pytest.raises(FailedPrecondition, match=r"up to 0\.3, in 1\.00% of the rows") as caught:
        check_new_version(converted(passed=False, max_abs_diff=0.3, share_beyond=0.01))
    assert caught.value.reason == "CONVERSION_DIFFERS"
    assert caught.value.field == "model_version.parity_reports[0]"
    # One that was refused and is not served is a matter of record.
    check_new_version(converted(passed=False, max_abs_diff=0.3, share_beyond=0.01, target=""))


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"share_beyond": 0.5}, "REPORT_CONTRADICTS_ITSELF", "passed"),
        ({"row_count": 0}, "REPORT_CONTRADICTS_ITSELF", "passed"),
        ({"source": "6" * 64}, "NOT_AN_ARTIFACT", "source"),
        ({"target": "6" * 64}, "NOT_AN_ARTIFACT", "target"),
        ({"max_abs_diff": float("nan")}, "OUT_OF_RANGE", "max_abs_diff"),
        ({"tolerance": -1.0}, "OUT_OF_RANGE", "tolerance"),
        ({"metric_changes": {"brier": float("inf")}}, "OUT_OF_RANGE", "brier"),
    ],
)
def test_a_report_must_be_consistent(changes: dict[str, object], reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_new_version(converted(**changes))
    assert caught.value.reason == reason
    assert caught.value.field == f"model_version.parity_reports[0].{field}"
