"""API keys: their form, their digest, what they may do. Pure.

A key is `myk_`, 8 characters by which it is found and listed, `_`, and 192 random bits. Only an
HMAC-SHA256 of the whole is stored: with that much randomness a slow password hash would add no
safety and cost milliseconds on every request.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from service_kit.context import Caller
from service_kit.errors import InvalidArgument

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_PREFIX_LENGTH = 8
_KEY = re.compile(r"myk_([a-z2-7]{8})_[A-Za-z0-9_-]{32}")
_SCOPE = re.compile(r"\*|(\*|[a-z][a-z0-9_]*):(\*|[a-z][a-z0-9_]*)")
_PRINCIPAL = re.compile(r"(keys|users|services)/[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key.

    Attributes:
        prefix: The public part, by which it is found.
        digest: HMAC-SHA256 of the whole key, 32 bytes.
        principal: Whom it stands for, e.g. `keys/abcdefgh` or `users/ann`.
        scopes: What it may do, e.g. `registry:read`, `*:read`, `*`.
        revoked: Since when it is no good, if it is.
    """

    prefix: str
    digest: bytes
    principal: str
    scopes: frozenset[str]
    created: datetime
    revoked: datetime | None = None

    @property
    def caller(self) -> Caller:
        """On whose behalf its requests run."""
        return Caller(self.principal, self.scopes)


def new_key() -> tuple[str, str]:
    """A fresh key and its prefix."""
    prefix = "".join(secrets.choice(_ALPHABET) for _ in range(_PREFIX_LENGTH))
    return f"myk_{prefix}_{secrets.token_urlsafe(24)}", prefix


def prefix_of(key: str) -> str | None:
    """The prefix of a key; nothing when the text has not a key's form."""
    match = _KEY.fullmatch(key)
    return match[1] if match else None


def digest_of(key: str, secret: bytes) -> bytes:
    """The HMAC-SHA256 of a key."""
    return hmac.digest(secret, key.encode(), "sha256")


def check_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Scopes that a key may get.

    Raises:
        InvalidArgument: `INVALID_SCOPE`.
    """
    found = frozenset(scopes)
    if not found or not all(_SCOPE.fullmatch(scope) for scope in found):
        raise InvalidArgument(
            "INVALID_SCOPE", "must be scopes like registry:read, *:read or *", field="scopes"
        )
    return found


def check_principal(principal: str) -> str:
    """The name of whom a key stands for.

    Raises:
        InvalidArgument: `INVALID_PRINCIPAL`.
    """
    if not _PRINCIPAL.fullmatch(principal):
        raise InvalidArgument(
            "INVALID_PRINCIPAL", "must be keys/…, users/… or services/…", field="principal"
        )
    return principal
