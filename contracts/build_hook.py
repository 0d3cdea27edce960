"""Build hook: generates the stubs of the contracts before a wheel is packed.

A wheel carries the stubs as top-level packages. An editable install must not: it
reads them from `contracts/gen`, where a later run of the generator renews them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StubsHook(BuildHookInterface):  # type: ignore[misc]
    """Runs `contracts.generate` from the source tree and packs what it made."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, str(Path(self.root)))
        from contracts.generate import OUT, generate

        generate()
        if version != "editable":
            build_data["force_include"] |= {str(path): path.name for path in OUT.iterdir()}
