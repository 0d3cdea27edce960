"""Making, listing and revoking keys, and checking them in microseconds."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol

from gateway.access.keys import (
    ApiKey,
    check_principal,
    check_scopes,
    digest_of,
    new_key,
    prefix_of,
)
from service_kit.clock import Clock
from service_kit.context import Caller
from service_kit.errors import DomainError, PermissionDenied, Unauthenticated

#: Where a key belongs, as refusals name it.
HEADER = "Authorization"
_MOST_ADMITTED = 4_096

_log = logging.getLogger(__name__)


class KeyTable(Protocol):
    """Where keys are kept."""

    def add(self, key: ApiKey) -> None:
        """Record a new key."""
        ...

    def list(self) -> Sequence[ApiKey]:
        """All keys, oldest first."""
        ...

    def revoke(self, prefix: str, when: datetime) -> None:
        """Make a key useless; raises NotFound."""
        ...

    def version(self) -> Any:
        """Something that changes whenever the table does."""
        ...


class KeyService:
    """The keys of a suite.

    Args:
        secret: Key of the HMAC.
    """

    def __init__(self, table: KeyTable, secret: bytes, clock: Clock) -> None:
        self._table = table
        self._secret = secret
        self._clock = clock

    def create(self, scopes: Iterable[str], principal: str = "") -> str:
        """Make a key; it is shown this once.

        Args:
            principal: Whom it stands for; the key itself (`keys/{prefix}`) when empty.
        """
        text, key = self.make(scopes, principal)
        self.add(key)
        return text

    def make(self, scopes: Iterable[str], principal: str = "") -> tuple[str, ApiKey]:
        """Make a key that is not yet recorded."""
        text, prefix = new_key()
        return text, ApiKey(
            prefix=prefix,
            digest=digest_of(text, self._secret),
            principal=check_principal(principal or f"keys/{prefix}"),
            scopes=check_scopes(scopes),
            created=self._clock.now(),
        )

    def add(self, key: ApiKey) -> None:
        """Record a key that was made."""
        self._table.add(key)

    def list(self) -> Sequence[ApiKey]:
        """All keys, oldest first, revoked ones too."""
        return self._table.list()

    def revoke(self, prefix: str) -> None:
        """Make a key useless within a second."""
        self._table.revoke(prefix, self._clock.now())


class Door:
    """Checks keys against a copy of the table in memory, which is refreshed every second.

    When the database does not answer, the copy stays in force.
    """

    def __init__(self, table: KeyTable, secret: bytes, *, interval: float = 1.0) -> None:
        self._table = table
        self._secret = secret
        self._interval = interval
        self._version: Any = None
        self._known: dict[str, tuple[bytes, Caller]] = {}
        self._admitted: dict[tuple[str, str], bool] = {}
        self._checked = 0.0
        self._task: asyncio.Task[None] | None = None
        self._refreshing = asyncio.Lock()

    async def start(self) -> None:
        """Read the table and go on reading it."""
        await self.refresh()
        self._task = asyncio.create_task(self._run(), name="keys")

    async def stop(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def known(self, key: str) -> Caller | None:
        """The caller whose key this is; takes microseconds."""
        found = self._known.get(key[4:12])
        if found is None or not hmac.compare_digest(found[0], digest_of(key, self._secret)):
            return None
        return found[1]

    def admits(self, key: str, scope: str) -> bool:
        """Whether a key is known and may do something: one look-up from the second time on.

        What was found is kept as long as the table does not change. Keys that are no good are not
        kept, so that guessing fills nothing.
        """
        if (key, scope) in self._admitted:
            return True
        caller = self.known(key)
        if caller is None or not caller.may(scope):
            return False
        if len(self._admitted) >= _MOST_ADMITTED:
            self._admitted.clear()
        return self._admitted.setdefault((key, scope), True)

    async def caller(self, key: str) -> Caller:
        """The caller whose key this is.

        Raises:
            Unauthenticated: `NO_API_KEY` or `BAD_API_KEY`.
        """
        if not key:
            raise Unauthenticated("NO_API_KEY", "an API key is needed", field=HEADER)
        found = self.known(key)
        if found is not None:
            return found
        prefix = prefix_of(key)
        if prefix is not None and prefix not in self._known:
            # It may have been made within the last second; a stranger can't ask more often.
            await self._refresh_soon(time.monotonic())
            found = self.known(key)
        if found is None:
            raise Unauthenticated("BAD_API_KEY", "the API key is not valid", field=HEADER)
        return found

    async def refresh(self) -> None:
        """Read the table when it has changed."""
        began = time.monotonic()
        version = await asyncio.to_thread(self._table.version)
        if version != self._version:
            keys = await asyncio.to_thread(self._table.list)
            self._known = {k.prefix: (k.digest, k.caller) for k in keys if k.revoked is None}
            self._admitted.clear()
            self._version = version
        self._checked = began

    async def _refresh_soon(self, asked: float) -> None:
        async with self._refreshing:
            if self._checked < asked:  # nobody else has looked meanwhile
                pause = self._checked + self._interval / 4 - time.monotonic()
                await asyncio.sleep(max(0.0, pause))
                await self._try_refresh()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self._try_refresh()

    async def _try_refresh(self) -> None:
        try:
            await self.refresh()
        except DomainError:
            _log.warning("keys could not be read; those known stay in force")


def require_scope(caller: Caller, scope: str) -> None:
    """Refuse a caller who does not hold a scope; an empty scope is held by nobody.

    Raises:
        PermissionDenied: `SCOPE_UNDECLARED` or `SCOPE_MISSING`.
    """
    if not scope:
        raise PermissionDenied("SCOPE_UNDECLARED", "nobody may call this")
    if not caller.may(scope):
        raise PermissionDenied("SCOPE_MISSING", "a scope is missing", scope=scope)


def key_of(authorization: str, api_key: str) -> str:
    """The key in the `Authorization: Bearer` or the `X-API-Key` header."""
    kind, _, value = authorization.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    return api_key.strip()
