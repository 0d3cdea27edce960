"""Domain errors over the wire and back."""

from __future__ import annotations

import grpc
import pytest

from service_kit import errors
from service_kit.grpc_status import abort_status, error_from_rpc, from_status, to_status

ALL = [
    errors.InvalidArgument,
    errors.NotFound,
    errors.AlreadyExists,
    errors.FailedPrecondition,
    errors.Conflict,
    errors.PermissionDenied,
    errors.Unauthenticated,
    errors.ResourceExhausted,
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.Unimplemented,
    errors.Internal,
]


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_the_wire(kind: type[errors.DomainError]) -> None:
    error = kind("SOME_REASON", "a sentence", field="model.name", limit="3")
    back = from_status(to_status(error))
    assert type(back) is kind
    assert vars(back) == vars(error)


def test_every_class_has_a_code_of_its_own() -> None:
    codes = {abort_status(kind("R", "m")).code for kind in ALL}
    assert len(codes) == len(ALL)
    kinds = errors.DomainError.__subclasses__()
    assert set(ALL) == {kind for kind in kinds if kind.__module__ == errors.__name__}


def test_a_services_own_class_has_the_code_of_its_base() -> None:
    class ModelNotFound(errors.NotFound):
        pass

    assert abort_status(ModelNotFound("MODEL_NOT_FOUND", "no")).code is grpc.StatusCode.NOT_FOUND
    bare = errors.DomainError("ODD", "no")
    assert abort_status(bare).code is grpc.StatusCode.INTERNAL


def test_a_long_error_still_fits_in_a_header() -> None:
    facts = {f"key{number}": "v" * 10_000 for number in range(50)}
    error = errors.NotFound("LONG", "m" * 100_000, field="f" * 10_000, **facts)
    ((_, raw),) = abort_status(error).trailing_metadata
    assert len(raw) < 8_000


def test_metadata_may_have_any_key() -> None:
    error = errors.NotFound("R", "m")
    error.metadata["reason"] = "self"
    assert from_status(to_status(error)).metadata == {"reason": "self"}


def test_a_bare_rpc_error_is_ours_to_explain() -> None:
    error = error_from_rpc(grpc.RpcError(), "registry")
    assert (type(error), error.metadata) == (errors.Internal, {"peer": "registry"})
