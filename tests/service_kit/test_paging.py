"""Pages and their tokens."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.errors import InvalidArgument
from service_kit.paging import Page, decode_token, encode_token, page_params


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_decode_undoes_encode(offset: str) -> None:
    assert decode_token(encode_token(offset)) == offset


@given(st.text())
def test_a_strange_token_is_refused_or_read_but_never_breaks(token: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert encode_token(decode_token(token)) == token


@pytest.mark.parametrize("token", ["x", "é", "MQ", "a" * 3_000, "eA", "MTI=MTI="])
def test_tokens_that_we_did_not_make(token: str) -> None:
    with pytest.raises(InvalidArgument, match="INVALID_PAGE_TOKEN"):
        page_params(10, token)


@pytest.mark.parametrize(("asked", "given_"), [(0, 50), (1, 1), (1_000, 1_000), (5_000, 1_000)])
def test_sizes(asked: int, given_: int) -> None:
    assert page_params(asked, "") == Page(size=given_)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="INVALID_PAGE_SIZE"):
        page_params(-1, "")
