"""The one place where everything is built and wired."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import time
from typing import Any, Final
from uuid import uuid4

import msgspec
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.api import (
    acks,
    admin,
    audit,
    devices,
    events,
    inbox,
    keys,
    operations,
    problems,
    recalls,
    receipts,
    rooms,
    scheduled,
    tokens,
    users,
)  # fmt: skip
from service.api.description import describe
from service.api.middleware import RequestId
from service.api.service import Service
from service.auth.keys import Keyring
from service.auth.tokens import minter_from, verifier_from
from service.domain.errors import TidingsError
from service.domain.limits import limit_of
from service.domain.publication import Rules
from service.domain.recent import Recent
from service.domain.retention import Keep
from service.domain.revocations import Revocations
from service.domain.webhooks import signing_key
from service.gateway.gateway import Gateway
from service.observe.metrics import Metrics
from service.settings import Settings, load
from service.store import log as store
from service.store import pending, schema
from service.store.database import Database
from service.stream.appender import Appender
from service.stream.callbacks import Callbacks
from service.stream.control import Control, KeyRecord
from service.stream.cursors import Cursors
from service.stream.duties import Duties
from service.stream.erasures import Erasures
from service.stream.follower import Follower
from service.stream.hub import Hub
from service.stream.limits import Limits
from service.stream.receipts import Receipts
from service.stream.retention import Retention
from service.stream.scheduler import Scheduler
from service.stream.sessions import Sessions
from service.stream.webhook import Webhook

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
    # A user's id may have slashes in it: what stands below a user is asked for before the user.
    for part in (
        admin, keys, audit, receipts, recalls, scheduled, rooms, inbox, acks, devices, tokens, operations,
        users,
    ):  # fmt: skip
        app.include_router(part.router)
    app.router.routes[:0] = events.ROUTES
    problems.install(app)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=["*"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-Id"],
        expose_headers=[
            "X-Request-Id",
            "Retry-After",
            "Idempotent-Replayed",
            "Link",
            "RateLimit",
            "RateLimit-Policy",
        ],
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
    rules = Rules(settings.max_data, settings.schedule_horizon, callbacks=settings.callback_url is not None)
    async with AsyncExitStack() as stack:
        database = Database(url, settings.pool_size)
        stack.push_async_callback(database.close)
        async with database.connection() as connection:
            await store.ensure_partitions(connection)
            await pending.configure(connection, rules, sql_notify=settings.sql_notify)
            asked = asyncio.get_running_loop().time()
            start = await store.start(connection)
        _warn_of_unsafe(start)
        metrics = Metrics()
        keyring, revocations = _keyring(settings, start), Revocations()
        for revocation in start.revocations:
            revocations.add(revocation, time())
        cursors = Cursors(database, metrics)
        control = Control(revocations, keyring, cursors)
        hub = Hub(start.head, Recent(start.head, settings.recent_bytes), control)
        follower = Follower(
            database, hub, control, metrics, lineage=start.lineage, ahead=start.now - asked
        )  # fmt: skip
        appender = Appender(
            database, metrics, committed=follower.offer, seen=lambda: follower.seen,
            timeout=settings.append_timeout, window=settings.id_window,
        )  # fmt: skip
        own = Database(url, 1)
        stack.push_async_callback(own.close)
        scheduler = Scheduler(own, follower, metrics, window=settings.id_window, notified=settings.sql_notify)
        limits = Limits(
            keyring, key=limit_of(settings.key_rate), user=limit_of(settings.user_rate, settings.user_burst)
        )
        sessions = Sessions(database, hub.recent, cursors, settings.max_devices_per_user)
        verifier = verifier_from(settings)
        stack.push_async_callback(verifier.aclose)
        gateway = Gateway(
            settings, database, verifier, revocations, follower, appender, sessions, cursors, limits,
            metrics, identity=start.identity,
        )  # fmt: skip
        stack.push_async_callback(gateway.close)
        instance = uuid4().hex
        duties = Duties(settings, instance, database, control, follower, cursors, limits, metrics)
        await duties.note()  # and learn what counts against quotas
        retention = Retention(url, Keep(settings.retention or None, settings.retention_bytes), metrics)
        erasures = Erasures(database, follower)
        await _run_all(
            stack, follower.run(), appender.run(), scheduler.run(), sessions.run(), cursors.run(),
            duties.run(), retention.run(), erasures.run(), gateway.pulse.beat(), gateway.pulse.ask(),
            *_callbacks(settings, database, cursors, metrics, start.identity),
        )  # fmt: skip
        service = Service(
            settings, rules, instance, database, follower, appender, scheduler, control, cursors,
            Receipts(database, hub, cursors), keyring, verifier, minter_from(settings), limits, metrics,
        )  # fmt: skip

        async def drain() -> None:
            await gateway.drain(settings.drain_grace, settings.drain_timeout)
            service.receipts.leave()
            try:
                async with asyncio.timeout(settings.drain_timeout):
                    await appender.drained()
                    await cursors.flush()
                    await duties.note()
            except (TidingsError, TimeoutError) as error:
                log.warning("the drain was cut short: %s", error)

        yield {"service": service, "gateway": gateway, "drain": drain}


def _callbacks(
    settings: Settings, database: Database, cursors: Cursors, metrics: Metrics, identity: str
) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield the work of calling back, where there is a URL for it."""
    if settings.callback_url is not None and settings.callback_secret is not None:
        webhook = Webhook(
            settings.callback_url, signing_key(settings.callback_secret.get_secret_value()),
            allow_private=settings.callback_allow_private,
        )  # fmt: skip
        yield Callbacks(database, cursors, webhook, metrics, identity=identity).run()


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
