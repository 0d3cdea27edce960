"""Resource names: ``models/{model}/versions/{version}`` to ids and back (AIP-122)."""

from __future__ import annotations

import re
from functools import lru_cache

from service_kit.errors import InvalidArgument

#: What an id that a person chooses looks like.
ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"

_CHOSEN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
# Within a name also what the suite makes itself: UUIDs, sha256 digests (64 characters), hashes
# with capitals.
_ANY_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_VARIABLE = re.compile(r"\{([a-z][a-z0-9_]*)\}")


def parse_name(pattern: str, name: str, *, field: str = "name") -> dict[str, str]:
    """Take the ids out of a resource name.

    >>> parse_name("models/{model}/versions/{version}", "models/delay/versions/7")
    {'model': 'delay', 'version': '7'}

    Raises:
        InvalidArgument: ``INVALID_NAME`` when the name does not have the pattern's form.
    """
    match = _compiled(pattern).fullmatch(name)
    if match is None:
        raise InvalidArgument("INVALID_NAME", f"must have the form {pattern}", field=field)
    return match.groupdict()


def check_id(value: str, field: str) -> str:
    """Return an id that a person chose, or refuse it.

    Raises:
        InvalidArgument: ``INVALID_ID`` when it does not match :data:`ID_PATTERN`.
    """
    if _CHOSEN_ID.fullmatch(value) is None:
        raise InvalidArgument("INVALID_ID", f"must match {ID_PATTERN}", field=field)
    return value


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = _VARIABLE.split(pattern)
    source = [
        f"(?P<{part}>{_ANY_ID})" if index % 2 else re.escape(part)
        for index, part in enumerate(parts)
    ]
    return re.compile("".join(source))
