"""Alembic's entry: runs the migrations on one connection, in the schema ``tidings``."""

from alembic import context
from sqlalchemy import Connection, text

from service.store.tables import metadata


def run(connection: Connection) -> None:
    """Migrate on ``connection``; one at a time, however many processes start at once."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema="tidings",
        include_schemas=True,
    )
    with context.begin_transaction():
        connection.execute(text("select pg_advisory_xact_lock(hashtext('tidings.migrate'))"))
        connection.execute(text("create schema if not exists tidings"))
        context.run_migrations()


def run_from_command_line() -> None:
    """Serve the ``alembic`` command itself, with the database that the settings name."""
    import asyncio  # noqa: PLC0415 - only Alembic's own command comes this way

    from service.settings import Settings  # noqa: PLC0415
    from service.store.database import engine_for  # noqa: PLC0415

    async def migrate() -> None:
        url = Settings().database_url
        if url is None:
            raise SystemExit("set TIDINGS_DATABASE_URL")
        engine = engine_for(url.get_secret_value(), pool_size=1)
        try:
            async with engine.connect() as connection:
                await connection.run_sync(run)
        finally:
            await engine.dispose()

    asyncio.run(migrate())


given = context.config.attributes.get("connection")
if given is None:
    run_from_command_line()
else:
    run(given)
