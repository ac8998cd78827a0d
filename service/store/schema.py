"""The schema's version: bring it up to date, or refuse to run on an old one."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from service.domain.errors import TidingsError
from service.store.database import engine_for

VERSION: Final = 9
"""What this code was written for: the number of the newest migration that it ships."""


class SchemaMismatch(TidingsError):
    """The database's schema and this version of the code do not go together."""

    code = "schema_mismatch"


def migrations_folder() -> Path:
    """Return where the migrations are: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "migrations"
    return inside if inside.exists() else package.parent / "migrations"


def alembic_config(connection: Connection) -> Config:
    """Return Alembic's configuration for work on ``connection``."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["connection"] = connection
    return config


async def upgrade(url: str, revision: str = "head") -> None:
    """Migrate the database at ``url``; safe to call from several processes at once."""
    await _with(url, lambda c: command.upgrade(alembic_config(c), revision))


async def downgrade(url: str, revision: str = "base") -> None:
    """Take migrations back; what they made is dropped with everything in it."""
    await _with(url, lambda c: command.downgrade(alembic_config(c), revision))


async def _with(url: str, work: Callable[[Connection], object]) -> None:
    engine = engine_for(url, pool_size=1)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("set statement_timeout = 0"))
            await connection.execute(text("set lock_timeout = 0"))
            await connection.run_sync(work)
    finally:
        await engine.dispose()


async def check(url: str) -> None:
    """Raise SchemaMismatch unless this code can run on the database at ``url``.

    A newer schema is accepted where it says that it only added things, so that one can migrate first
    and roll the instances afterwards.
    """
    engine = engine_for(url, pool_size=1)
    try:
        async with engine.connect() as connection:
            version, readable_by = await connection.run_sync(_versions)
    finally:
        await engine.dispose()
    if version < VERSION:
        raise SchemaMismatch(
            f"the database's schema is at version {version}, this needs {VERSION}: run `tidings migrate`"
        )
    if readable_by > VERSION:
        raise SchemaMismatch(
            f"the database's schema is at version {version} and needs a newer tidings than this one"
        )


def _versions(connection: Connection) -> tuple[int, int]:
    try:
        version = connection.scalar(text("select max(version_num::int) from tidings.alembic_version"))
        readable_by = connection.scalar(text("select readable_by from tidings.log"))
    except ProgrammingError:
        return 0, 0
    return version or 0, readable_by or 0
