"""The way to PostgreSQL: one engine, its pool, and what its failures mean.

SQLAlchemy owns the connections; statements go out through asyncpg itself, each in autocommit, so
that each is one round trip.
"""

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import asyncpg
from sqlalchemy import Executable, RowMapping, event, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service.domain.errors import Forbidden, Invalid, RateLimited, TidingsError, Unavailable

if TYPE_CHECKING:
    from sqlalchemy.pool import QueuePool

NOT_YOURS: Final = "TD403"
"""Our own SQLSTATE: a client may not end what the API made."""
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
    parsed = make_url(url).set(drivername="postgresql+asyncpg")
    if mode := parsed.query.get("sslmode"):
        # libpq's name for what asyncpg calls ssl.
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    engine = create_async_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=2.0,
        pool_use_lifo=True,
        connect_args={
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": STATEMENT_TIMEOUT + 1.0,
            "server_settings": {
                "application_name": "tidings",
                "lock_timeout": f"{LOCK_TIMEOUT * 1000:.0f}",
                "statement_timeout": f"{STATEMENT_TIMEOUT * 1000:.0f}",
                # By its estimates a page would be worth compiling, for longer than it runs.
                "jit": "off",
                # Some databases default to repeatable read, whose snapshot is older than the lock.
                "default_transaction_isolation": "read committed",
            },
        },
    )
    event.listen(engine.sync_engine, "do_connect", _shuffle)
    return engine


def _shuffle(_dialect: object, _record: object, _arguments: object, options: dict[str, Any]) -> None:
    """Try the servers of a URL in any order: one that is silent takes all the time of an attempt."""
    if isinstance(options.get("host"), list):
        servers = list(zip(options["host"], options["port"], strict=True))
        random.shuffle(servers)
        options["host"], options["port"] = map(list, zip(*servers, strict=True))


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
        return cast("QueuePool", self.engine.pool).checkedout()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a driver connection; raises Unavailable where there is none or it is lost."""
        with translated():
            lent, driver = await self.checkout()
            try:
                yield driver
            except asyncpg.ReadOnlySQLTransactionError:
                driver.terminate()  # its server has become a standby, and another is the primary
                raise
            finally:
                if driver.is_closed():
                    await lent.invalidate()
                await lent.close()

    @asynccontextmanager
    async def held(self) -> AsyncIterator["Held"]:
        """Lend one connection for good: whoever has it waits for nobody, and its statements stay prepared."""
        held = Held(self)
        try:
            yield held
        finally:
            await held.release()

    async def checkout(self) -> tuple[AsyncConnection, asyncpg.Connection]:
        """Take a connection that is open out of the pool; it has to be closed."""
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
        with translated():
            async with self.engine.connect() as connection:
                return (await connection.execute(statement)).mappings().all()


class Held:
    """One connection, opened when it is first needed and anew after it was lost."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lent: AsyncConnection | None = None
        self._driver: asyncpg.Connection | None = None

    async def get(self) -> asyncpg.Connection:
        """Return the connection; raises Unavailable where none can be had."""
        if self._driver is None or self._driver.is_closed():
            with translated():
                await self.release()
                self._lent, self._driver = await self._database.checkout()
        return self._driver

    def discard(self) -> None:
        """Close it; another is opened when it is needed."""
        if self._driver is not None:
            self._driver.terminate()

    async def release(self) -> None:
        """Give it back to the pool."""
        lent, self._lent, driver, self._driver = self._lent, None, self._driver, None
        if lent is not None and driver is not None:
            if driver.is_closed():
                await lent.invalidate()
            await lent.close()


async def one(connection: asyncpg.Connection, statement: str, *values: object) -> asyncpg.Record:
    """Run a statement that returns exactly one row."""
    [row] = await connection.fetch(statement, *values)
    return row


@contextmanager
def translated() -> Iterator[None]:
    """Raise our own errors for the database's."""
    try:
        yield
    except asyncpg.SyntaxOrAccessError:
        raise  # it is ours to mend, and waiting does not help
    except (*LOST, asyncpg.PostgresError) as error:
        raise refusal(error) from error


def rolled_back(error: Unavailable) -> bool:
    """Tell whether the server itself said that the statement was not carried out."""
    state = getattr(error.__cause__, "sqlstate", None) or "08"
    return not state.startswith(("08", "57P"))


def refusal(error: BaseException) -> TidingsError:
    """Return what a database error means for the caller."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    state = getattr(error, "sqlstate", None) or ""
    if state == "53400":
        return RateLimited(str(error))
    if state == NOT_YOURS:
        return Forbidden(str(error))
    if state[:2] in {"22", "23", "54"} and "no partition" not in str(error):
        return Invalid("the database refuses this value")
    return Unavailable("the database cannot be reached just now")
