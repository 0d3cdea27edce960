"""The migration runner: Alembic without an ini file, one version table for each package."""

from __future__ import annotations

import importlib.util
import logging
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, MetaData, column, inspect, select, table, text

from service_kit.database import migration_engine
from service_kit.errors import FailedPrecondition

if TYPE_CHECKING:
    from alembic.config import Config

_REVISION_FILE = re.compile(r"(\d{4})_\w+\.py")


def upgrade(engine: Engine, package: str) -> None:
    """Apply the revisions that the database lacks, in one transaction, under a lock.

    A revision is a file `<package>/migrations/versions/0001_what_it_does.py` whose `revision`
    is its four digits; the newest file is the head.
    """
    folder = _migrations_folder(package)
    head = _head(folder)
    with engine.connect() as connection:
        if _is_current(connection, package, head):
            return
    changer = migration_engine(engine)
    try:
        with changer.begin() as connection:
            _lock(connection, package)
            if not _is_current(connection, package, head):
                _run(connection, package, folder, head)
    finally:
        changer.dispose()


def schema_differences(engine: Engine, metadata: MetaData) -> list[str]:
    """What the tables of `metadata` have that the migrated database lacks; empty when equal.

    For the test of every service: a model changed without a migration shows up here.
    """
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = compare_metadata(context, metadata)
    ours = set(metadata.tables)
    return [str(item) for item in found if not _is_foreign_table(item, ours)]


def _is_foreign_table(item: object, ours: set[str]) -> bool:
    # Another package's tables and the version tables may live in the same database.
    if not isinstance(item, tuple) or item[0] not in ("remove_table", "remove_index"):
        return False
    found = item[1] if item[0] == "remove_table" else item[1].table
    return found.name not in ours


def version_table(package: str) -> str:
    """The table that records a package's revision, so that packages can share a database."""
    return f"{package.replace('.', '_')}_alembic_version"


def _migrations_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "migrations"
        if (folder / "env.py").is_file():
            return folder
    raise ValueError(f"{package} has no migrations folder")


def _head(folder: Path) -> str:
    matches = (_REVISION_FILE.fullmatch(file.name) for file in (folder / "versions").glob("*.py"))
    revisions = sorted(match[1] for match in matches if match)
    if not revisions:
        raise ValueError(f"no revision in {folder.name}/versions")
    return revisions[-1]


def _is_current(connection: Connection, package: str, head: str) -> bool:
    name = version_table(package)
    if not inspect(connection).has_table(name):
        return False
    found = connection.execute(select(column("version_num")).select_from(table(name))).scalar()
    if found is not None and found > head:
        raise FailedPrecondition(
            "DATABASE_NEWER", f"the database of {package} was migrated by a newer release"
        )
    return bool(found == head)


def _lock(connection: Connection, package: str) -> None:
    # On SQLite the transaction itself is exclusive from BEGIN IMMEDIATE on.
    if connection.dialect.name == "postgresql":
        key = zlib.crc32(version_table(package).encode())
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _run(connection: Connection, package: str, folder: Path, head: str) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = _config(connection, package, folder)
    if (actual := ScriptDirectory.from_config(config).get_current_head()) != head:
        raise ValueError(f"{package}: the newest file is {head}, the newest revision {actual}")
    command.upgrade(config, "head")
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if broken is not None:
            raise ValueError(f"{package}: a migration left foreign keys of {broken[0]} broken")


def _config(connection: Connection, package: str, folder: Path) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table(package)
    return config
