"""With a real Ray: a file that crashes its library fails its deployment and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from modelyard.serving.v1 import serving_pb2

from tests.serving_svc import models
from tests.serving_svc.test_ray import MODEL, Suite, answer, until


@pytest.fixture
def suite(tmp_path: Path, redis_url: str, stream_prefix: str) -> Iterator[Suite]:
    made = Suite(tmp_path, redis_url, stream_prefix)
    yield made
    made.stop()


def deploy(suite: Suite, number: int) -> str:
    version = f"{MODEL}/versions/{number}"
    request = serving_pb2.DeployVersionRequest(endpoint="endpoints/late", model_version=version)
    suite.serving.DeployVersion(request, timeout=5)
    return version


@pytest.mark.ray
def test_a_bad_model_fails_its_deployment_with_the_reason(suite: Suite) -> None:
    create = serving_pb2.CreateEndpointRequest(
        endpoint_id="late", endpoint=serving_pb2.Endpoint(model=MODEL)
    )
    until(suite.answers, 30, "the service did not start")
    suite.serving.CreateEndpoint(create, timeout=5)

    suite.registry.serve(models.onnx_linear(), "onnx", "pickle")
    with pytest.raises(grpc.RpcError, match="no runtime here loads the format 'pickle'"):
        deploy(suite, 1)
    suite.registry.serve(b"anything", "mlflow_pyfunc")
    with pytest.raises(grpc.RpcError, match="MODELYARD_CODE_MODELS"):
        deploy(suite, 1)

    text = models.booster().model_to_string()
    crashing = text.replace("num_leaves=7", "num_leaves=70000", 1)
    suite.registry.serve(crashing.encode(), "lightgbm")
    deploy(suite, 1)
    until(lambda: suite.endpoint().state_reason, 150, "the deployment did not fail")
    assert "crashed while it loaded it (SIGABRT)" in suite.endpoint().state_reason

    suite.registry.serve(text.encode(), "lightgbm")
    good = deploy(suite, 2)

    def served() -> bool:
        return any(each.model_version == good for each in suite.state().replicas)

    until(served, 90, "the good version was not deployed")
    assert 0.0 < answer(suite, good) < 1.0
