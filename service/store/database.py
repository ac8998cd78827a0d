"""The way to PostgreSQL: one engine, its pool, and what its failures mean.

SQLAlchemy owns the connections; statements go out through asyncpg itself, each in autocommit, so
that each is one round trip.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import asyncpg
from sqlalchemy import Executable, RowMapping, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service.domain.errors import Forbidden, Invalid, RateLimited, TidingsError, Unavailable

LOCK_TIMEOUT: Final = 2.0
STATEMENT_TIMEOUT: Final = 4.0
CONNECT_TIMEOUT: Final = 3.0

LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    SQLAlchemyError,
)
"""The connection is gone, or never was: a statement that was on its way may have been carried out."""


def engine_for(url: str, pool_size: int) -> AsyncEngine:
    """Return an engine for any spelling of a PostgreSQL URL."""
    return create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=2.0,
        connect_args={
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": STATEMENT_TIMEOUT + 1.0,
            "server_settings": {
                "application_name": "tidings",
                "lock_timeout": f"{LOCK_TIMEOUT * 1000:.0f}",
                "statement_timeout": f"{STATEMENT_TIMEOUT * 1000:.0f}",
                # Some databases default to repeatable read, whose snapshot is older than the lock.
                "default_transaction_isolation": "read committed",
            },
        },
    )


class Database:
    """Lends connections, and turns what goes wrong on them into our own errors."""

    def __init__(self, url: str, pool_size: int) -> None:
        self.engine = engine_for(url, pool_size)

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    @property
    def in_use(self) -> int:
        """Return how many connections are lent out."""
        return cast("Any", self.engine.pool).checkedout()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a driver connection; raises Unavailable where there is none or it is lost."""
        try:
            lent, driver = await self._checkout()
            try:
                yield driver
            finally:
                if driver.is_closed():
                    await lent.invalidate()
                await lent.close()
        except (*LOST, asyncpg.PostgresError) as error:
            raise refusal(error) from error

    async def _checkout(self) -> tuple[AsyncConnection, asyncpg.Connection]:
        while True:
            lent = await self.engine.connect()
            driver = cast("asyncpg.Connection", (await lent.get_raw_connection()).driver_connection)
            if not driver.is_closed():
                return lent, driver
            # The server went away while it lay in the pool.
            await lent.invalidate()
            await lent.close()

    async def rows(self, statement: Executable) -> Sequence[RowMapping]:
        """Run a composed query; return its rows by column name."""
        try:
            async with self.engine.connect() as connection:
                return (await connection.execute(statement)).mappings().all()
        except LOST as error:
            raise refusal(error) from error


def refusal(error: BaseException) -> TidingsError:
    """Return what a database error means for the caller."""
    state = getattr(error, "sqlstate", None) or ""
    if state == "53400":
        return RateLimited(str(error))
    if state == "42501" and "membership" in str(error):
        return Forbidden(str(error))
    if state[:2] in {"22", "23"}:
        return Invalid("the database refuses this value")
    return Unavailable("the database cannot be reached just now")
