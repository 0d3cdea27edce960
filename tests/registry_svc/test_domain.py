"""The registry's rules."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_svc.documents import from_document, to_document
from registry_svc.domain import (
    GateOutcome,
    GateVerdict,
    Review,
    Stage,
    check_new_version,
    check_transition,
    lineage_graph,
    model_card,
)
from registry_svc.messages import version_from_message, version_to_message
from service_kit.errors import FailedPrecondition, InvalidArgument
from tests.registry_svc.examples import HASH, WHEN, model, version

APPROVED = Review(True, "keys/anna", "fine", WHEN)
REJECTED = Review(False, "keys/ben", "no", WHEN)


def test_a_good_version_may_be_registered() -> None:
    check_new_version(version())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"artifacts": ()}, "model_version.artifacts"),
        ({"artifacts": version().artifacts * 2}, "model_version.artifacts"),
        ({"runtime": ""}, "model_version.runtime"),
        ({"metrics": {"pr_auc": float("nan")}}, "model_version.metrics.pr_auc"),
        ({"signature": replace(version().signature, outputs=())}, "model_version.signature"),
        (
            {"signature": replace(version().signature, feature_service="")},
            "model_version.signature.feature_service",
        ),
        (
            {"signature": replace(version().signature, inputs=version().signature.inputs * 2)},
            "model_version.signature.inputs",
        ),
    ],
)
def test_a_bad_version_is_refused_by_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_new_version(version(**changes))
    assert refused.value.field == field


def test_a_refused_version_needs_a_person_for_production() -> None:
    refused = version(gate=GateVerdict(GateOutcome.REFUSED))
    with pytest.raises(FailedPrecondition, match="GATE_REFUSED"):
        check_transition(model(), refused, Stage.PRODUCTION)
    check_transition(model(), replace(refused, reviews=(APPROVED,)), Stage.PRODUCTION)


def test_the_last_review_counts() -> None:
    careful = model(requires_approval=True)
    for reviews, allowed in [((), False), ((APPROVED,), True), ((APPROVED, REJECTED), False)]:
        reviewed = version(reviews=reviews)
        if allowed:
            check_transition(careful, reviewed, Stage.PRODUCTION)
        else:
            with pytest.raises(FailedPrecondition, match="APPROVAL_MISSING"):
                check_transition(careful, reviewed, Stage.PRODUCTION)


@given(st.sampled_from(Stage), st.sampled_from(Stage))
def test_staying_is_allowed_and_production_can_be_left(here: Stage, to: Stage) -> None:
    check_transition(model(), version(stage=here), here)
    check_transition(model(), version(stage=Stage.PRODUCTION), Stage.ARCHIVED)
    if here is Stage.ARCHIVED and to is Stage.NONE:
        with pytest.raises(FailedPrecondition):
            check_transition(model(), version(stage=here), to)


def test_lineage_runs_from_data_to_artifact() -> None:
    graph = lineage_graph(version())
    edges = set(graph.edges)
    assert ("snapshots/s", "trainingSets/t") in edges
    assert ("pipelines/late/runs/1", "models/late-arrival/versions/3") in edges
    assert ("models/late-arrival/versions/3", f"artifacts/{HASH}") in edges
    names = {name for name, _ in graph.nodes}
    assert all(end in names for edge in edges for end in edge)
    assert not any(kind == "tracking_run" for _, kind in graph.nodes)


def test_the_card_says_what_matters() -> None:
    card = model_card(model(owner="ops"), version(reviews=(APPROVED,)))
    for expected in ("# late-arrival, version 3", "ops", "0.548", "gained 0.02", "c0ffee", "anna"):
        assert expected in card


@given(
    st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False, allow_infinity=False)),
    st.text(),
    st.lists(st.text(), max_size=3),
)
def test_documents_and_messages_keep_everything(
    metrics: dict[str, float], text: str, reasons: list[str]
) -> None:
    original = version(
        metrics=metrics,
        description=text,
        gate=GateVerdict(GateOutcome.PASSED, (), tuple(reasons)),
        reviews=(APPROVED,),
    )
    assert from_document(to_document(original)) == original
    message = version_to_message(original)
    epoch = datetime.fromtimestamp(0, UTC)
    expected = replace(original, number=0, create_time=epoch, creator="", reviews=())
    assert version_from_message("late-arrival", message) == expected
