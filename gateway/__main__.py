"""`python -m gateway` serves; `python -m gateway keys create|list|revoke` minds the API keys."""

from __future__ import annotations

import sys

from gateway.access.commands import run_keys
from gateway.server import run


def main(arguments: list[str]) -> int:
    """Run what was asked for; returns the exit status."""
    if not arguments:
        return run()
    if arguments[0] == "keys":
        return run_keys(arguments[1:])
    sys.stderr.write("usage: python -m gateway [keys create|list|revoke]\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
