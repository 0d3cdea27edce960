"""The commands that mind API keys: `python -m gateway keys …`."""

from __future__ import annotations

import argparse
import sys

from gateway.access.files import read_hmac_secret
from gateway.access.service import KeyService
from gateway.access.storage import ApiKeyTable
from gateway.settings import GatewaySettings
from service_kit.clock import SystemClock
from service_kit.database import make_engine, migrate
from service_kit.errors import DomainError


def run_keys(arguments: list[str]) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    settings = GatewaySettings(service="gateway")
    engine = make_engine(settings.database_url)
    try:
        migrate(engine, "gateway")
        service = KeyService(ApiKeyTable(engine), read_hmac_secret(settings.home), SystemClock())
        sys.stdout.write(_run(service, options))
    except DomainError as error:
        sys.stderr.write(f"{error.reason}: {error.message}\n")
        return 1
    finally:
        engine.dispose()
    return 0


def _run(service: KeyService, options: argparse.Namespace) -> str:
    if options.command == "create":
        return f"{service.create(options.scopes, options.principal)}\n"
    if options.command == "revoke":
        service.revoke(options.prefix)
        return f"revoked {options.prefix}\n"
    lines = [
        f"{key.prefix}  {key.created:%Y-%m-%d %H:%M}  {'revoked' if key.revoked else 'valid':7}  "
        f"{key.principal}  {' '.join(sorted(key.scopes))}\n"
        for key in service.list()
    ]
    return "".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gateway keys")
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key and print it, this once")
    create.add_argument("--scopes", nargs="+", required=True, help="such as serving:predict *:read")
    create.add_argument("--principal", default="", help="whom it stands for, such as users/ann")
    commands.add_parser("list", help="list the keys")
    revoke = commands.add_parser("revoke", help="make a key useless")
    revoke.add_argument("prefix", help="the 8 characters after myk_")
    return parser
