"""Which variant a unit gets: a pure function, the same wherever it is computed."""

from __future__ import annotations

from hashlib import blake2b

#: Shares are basis points.
BUCKETS = 10_000


def bucket(salt: str, unit: str) -> int:
    """The bucket (0 to 9999) of a unit: 64 bits of BLAKE2b over `salt:unit`, big-endian, mod 10000.

    >>> bucket("s", "ann") == bucket("s", "ann"), 0 <= bucket("s", "bob") < 10_000
    (True, True)
    """
    digest = blake2b(f"{salt}:{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % BUCKETS
