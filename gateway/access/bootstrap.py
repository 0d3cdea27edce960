"""The admin key of the first start."""

from __future__ import annotations

import logging
from pathlib import Path

from gateway.access.files import ADMIN_KEY, create_secret
from gateway.access.service import KeyService

_log = logging.getLogger(__name__)


def ensure_admin_key(keys: KeyService, home: Path) -> None:
    """Make an admin key when there is no usable key at all; it goes to `{home}/keys/admin.key`.

    The key is never logged: the launcher shows it from the file.
    """
    path = home / "keys" / ADMIN_KEY
    if any(key.revoked is None for key in keys.list()):
        return
    # The file first: a key on record whose text is lost would lock everybody out.
    text, key = keys.make(["*"], principal="users/admin")
    path.unlink(missing_ok=True)
    create_secret(path, text)
    keys.add(key)
    _log.info("made an admin key", extra={"file": str(path)})
