"""Pages of a listing: ``page_size`` and an opaque ``page_token`` (AIP-158)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from service_kit.errors import InvalidArgument

_LONGEST_TOKEN = 2_048


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing that is asked for.

    Attributes:
        size: The most items to return, at least 1.
        offset_token: Where the last page ended, as its maker wrote it; empty for the first page.
    """

    size: int
    offset_token: str = ""


def page_params(page_size: int, page_token: str, *, default: int = 50, maximum: int = 1000) -> Page:
    """Check the paging fields of a request.

    A size of 0 means the default and one above the maximum means the maximum (AIP-158).

    Raises:
        InvalidArgument: ``INVALID_PAGE_SIZE`` or ``INVALID_PAGE_TOKEN``.
    """
    if page_size < 0:
        raise InvalidArgument("INVALID_PAGE_SIZE", "must not be negative", field="page_size")
    return Page(size=min(page_size or default, maximum), offset_token=decode_token(page_token))


def encode_token(offset: str) -> str:
    """Make the opaque token of a position; the empty position gives the empty token."""
    if not offset:
        return ""
    return base64.urlsafe_b64encode(b"1" + offset.encode()).decode().rstrip("=")


def decode_token(token: str) -> str:
    """Take the position out of a token.

    Raises:
        InvalidArgument: ``INVALID_PAGE_TOKEN`` when :func:`encode_token` did not make it.
    """
    if not token:
        return ""
    refused = InvalidArgument(
        "INVALID_PAGE_TOKEN", "must be the next_page_token of an earlier answer", field="page_token"
    )
    if len(token) > _LONGEST_TOKEN:
        raise refused
    try:
        raw = base64.b64decode(
            token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True
        )
        offset = raw.decode()
    except (UnicodeError, binascii.Error) as error:
        raise refused from error
    if not offset.startswith("1") or encode_token(offset[1:]) != token:
        raise refused
    return offset[1:]
