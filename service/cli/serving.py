"""``tidings serve``, ``migrate``, ``prune`` and ``db-url``: this machine's own service."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn
from uuid import uuid4

import typer

from service import server
from service.cli import development
from service.cli.credentials import duration
from service.domain.errors import TidingsError
from service.domain.retention import Keep
from service.observe import logs
from service.settings import InvalidSettings, Settings, load
from service.store import embedded, schema
from service.store.audit import Actor
from service.store.database import Database
from service.stream import retention

log = logging.getLogger("tidings.cli")


class NotRunning(TidingsError):
    """What was asked for exists only while the service runs."""

    code = "not_running"


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    dev: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--dev", help="Fill in what is unset, for development.")
    ] = False,
) -> None:
    """Run the service until SIGTERM or Ctrl-C."""
    signal.signal(signal.SIGTERM, _terminated)  # until the server takes over
    if dev:
        development.fill_in(os.environ)
    settings = _settings()
    settings.check_complete()
    with _database(settings) as url:
        os.environ["TIDINGS_DATABASE_URL"] = url
        settings = load()
        logs.configure(settings.log_level, settings.log_format, secrets=settings.secrets())
        asyncio.run(schema.check(url))
        server.serve(host, port, workers, settings, partial(_ready, settings) if dev else _quiet)


def migrate() -> None:
    """Bring the database's schema up to date."""
    settings = _settings()
    with _database(settings) as url:
        asyncio.run(schema.upgrade(url))
    typer.echo("the schema is up to date")


def prune(
    older_than: Annotated[
        int | None,
        typer.Option(parser=duration, metavar="TIME", help="12h, 7d. [default: TIDINGS_RETENTION]"),
    ] = None,
    dry_run: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--dry-run", help="Only say what would go.")
    ] = False,
) -> None:
    """Delete old events now: whole partitions of the log, the oldest first."""
    settings = _settings()
    keep = _keep(settings, older_than)
    with _database(settings) as url:
        asyncio.run(schema.check(url))
        done = asyncio.run(_prune(url, keep, dry_run=dry_run))
    size = sum(partition.size for partition in done.dropped) / 2**20
    typer.echo(
        f"{'would delete' if dry_run else 'deleted'} {len(done.dropped)} of {len(done.held.partitions)}"
        f" partitions, {size:.1f} MiB, up to position {done.floor}"
    )
    if done.waiting:
        typer.echo(f"{len(done.waiting)} more are still being read; the service drops them later")


def _keep(settings: Settings, older_than: int | None) -> Keep:
    if older_than is None:
        return Keep(settings.retention or None, settings.retention_bytes)
    if older_than < settings.id_window:
        raise InvalidSettings("--older-than: must not be less than TIDINGS_ID_WINDOW")
    return Keep(older_than)


async def _prune(url: str, keep: Keep, *, dry_run: bool) -> retention.Pruned:
    database = Database(url, 1)
    try:
        by = Actor("command line", uuid4().hex)
        return await retention.prune(database, keep, by=by, dry_run=dry_run)
    finally:
        await database.close()


def db_url() -> None:
    """Print the URL of the database in use, for psql."""
    settings = _settings()
    if settings.database_url is not None:
        _, _, rest = settings.database_url.get_secret_value().partition("://")
        typer.echo(f"postgresql://{rest}")
        return
    data_dir = settings.data_dir or development.DATA_DIR
    url = embedded.running(data_dir)
    if url is None:
        raise NotRunning(
            f"no embedded PostgreSQL runs in {data_dir}: start `tidings serve`, or set TIDINGS_DATABASE_URL"
        )
    typer.echo(url)


def _settings() -> Settings:
    settings = load()
    logs.configure(settings.log_level, settings.log_format, secrets=settings.secrets())
    return settings


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """Give the URL of the database; an embedded one runs meanwhile, and has the newest schema."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    if settings.data_dir is None:
        raise InvalidSettings("TIDINGS_DATABASE_URL: must be set")
    url = embedded.start(settings.data_dir)
    try:
        log.info("using an embedded PostgreSQL", extra={"data_dir": str(_shown(settings.data_dir))})
        asyncio.run(schema.upgrade(url))
        yield url
    finally:
        embedded.stop(settings.data_dir)


def _shown(path: Path) -> Path:
    return path.expanduser().absolute()


def _terminated(*_: object) -> NoReturn:
    sys.exit(0)


def _quiet(_url: str) -> None:
    """Say nothing: the log has its line already."""


def _ready(settings: Settings, url: str) -> None:
    typer.echo(development.welcome(settings, url))
