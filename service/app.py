"""The one place where everything is built and wired."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from time import time
from typing import Any, Final
from uuid import uuid4

import msgspec
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.api import admin, events, operations, problems, rooms, tokens
from service.api.description import describe
from service.api.middleware import RequestId
from service.api.service import Service
from service.auth.keys import Keyring
from service.auth.tokens import minter_from, verifier_from
from service.domain.errors import TidingsError
from service.domain.publication import Rules
from service.domain.recent import Recent
from service.domain.revocations import Revocations
from service.gateway.gateway import Gateway
from service.observe.metrics import Metrics
from service.settings import Settings, load
from service.store import log as store
from service.store import schema
from service.store.database import Database
from service.stream.appender import Appender
from service.stream.control import Control, KeyRecord
from service.stream.cursors import Cursors
from service.stream.duties import Duties
from service.stream.follower import Follower
from service.stream.hub import Hub
from service.stream.sessions import Sessions

log = logging.getLogger("tidings.app")

VERSION: Final = "0.1.0"


def from_environment() -> FastAPI:
    """Return the application with the settings of the environment: uvicorn's factory."""
    return create_app(load())


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its parts are built when its lifespan begins."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with running(settings) as parts:
            yield parts

    app = FastAPI(
        title="Tidings",
        version=VERSION,
        lifespan=lifespan,
        openapi_url="/openapi.json" if settings.dev else None,
        docs_url="/docs" if settings.dev else None,
        redoc_url=None,
    )
    for part in (admin, rooms, tokens, operations):
        app.include_router(part.router)
    app.router.routes[:0] = events.ROUTES
    problems.install(app)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=["*"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-Id"],
        expose_headers=["X-Request-Id", "Retry-After", "Idempotent-Replayed"],
    )
    app.add_middleware(RequestId)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = describe(app)
    return app.openapi_schema


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[dict[str, Any]]:
    """Build the parts, run their tasks, yield them as the application's state, and end in order."""
    if settings.database_url is None:
        raise SystemExit("TIDINGS_DATABASE_URL is not set")
    url = settings.database_url.get_secret_value()
    await schema.check(url)
    async with AsyncExitStack() as stack:
        database = Database(url, settings.pool_size)
        stack.push_async_callback(database.close)
        async with database.connection() as connection:
            await store.ensure_partitions(connection)
            start = await store.start(connection)
        _warn_of_unsafe(start)
        metrics = Metrics()
        keyring, revocations = _keyring(settings, start), Revocations()
        for revocation in start.revocations:
            revocations.add(revocation, time())
        control = Control(revocations, keyring)
        hub = Hub(start.head, Recent(start.head, settings.recent_bytes), control)
        cursors = Cursors(database, metrics)
        follower = Follower(database, hub, control, metrics, lineage=start.lineage)
        appender = Appender(
            database, metrics, committed=follower.offer, seen=lambda: follower.seen,
            timeout=settings.append_timeout, window=settings.id_window,
        )  # fmt: skip
        sessions = Sessions(database, hub.recent, settings.max_devices_per_user)
        verifier = verifier_from(settings)
        stack.push_async_callback(verifier.aclose)
        gateway = Gateway(
            settings, database, verifier, revocations, follower, appender, sessions, cursors, metrics,
            identity=start.identity,
        )  # fmt: skip
        stack.push_async_callback(gateway.close)
        instance = uuid4().hex
        duties = Duties(settings, instance, database, control, follower, cursors, metrics)
        await _run_all(
            stack, follower.run(), appender.run(), sessions.run(), cursors.run(), duties.run(),
            gateway.pulse.beat(), gateway.pulse.ask(),
        )  # fmt: skip
        rules = Rules(settings.max_data, settings.schedule_horizon, callbacks=False)
        service = Service(
            settings, rules, instance, database, follower, appender, control, keyring, verifier,
            minter_from(settings), metrics,
        )  # fmt: skip

        async def drain() -> None:
            await gateway.drain(settings.drain_grace, settings.drain_timeout)
            try:
                async with asyncio.timeout(settings.drain_timeout):
                    await appender.drained()
                    await cursors.flush()
            except (TidingsError, TimeoutError) as error:
                log.warning("the drain was cut short: %s", error)

        yield {"service": service, "gateway": gateway, "drain": drain}


async def _run_all(stack: AsyncExitStack, *work: Coroutine[Any, Any, None]) -> None:
    """Run tasks for as long as the stack is open; one that fails is told, and stops the service."""
    for coroutine in work:
        task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(_failed)
        stack.push_async_callback(_end, task)


def _failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a part of the service failed", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _keyring(settings: Settings, start: store.Start) -> Keyring:
    admin_key = settings.admin_key
    keyring = Keyring(None if admin_key is None else admin_key.get_secret_value())
    for record in msgspec.json.decode(start.keys, type=list[KeyRecord]):
        keyring.put(record.as_key())
    return keyring


def _warn_of_unsafe(start: store.Start) -> None:
    if start.fsync == "off":
        log.error("PostgreSQL runs with fsync=off: a crash can lose or corrupt what was acknowledged")
    if start.synchronous_commit == "off":
        log.warning("synchronous_commit is off by default here; appends turn it on for themselves")
