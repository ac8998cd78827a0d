"""The one place where the parts of the service are built and wired."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from time import time
from typing import Any, NamedTuple, cast
from uuid import uuid4

import msgspec

from service.api.service import Service
from service.auth.keys import Keyring
from service.auth.tokens import minter_from, verifier_from
from service.domain.errors import TidingsError
from service.domain.limits import limit_of
from service.domain.messages import channel_of
from service.domain.publication import Rules
from service.domain.recent import Recent
from service.domain.retention import Keep
from service.domain.revocations import Revocations
from service.domain.webhooks import signing_key
from service.gateway.gateway import Gateway
from service.notify.port import Notifier
from service.notify.postgres import PostgresNotifier
from service.observe.metrics import Metrics
from service.settings import Settings
from service.store import log as store
from service.store import pending, schema
from service.store.database import Database
from service.store.presence import Lease
from service.stream.appender import Appender
from service.stream.callbacks import Callbacks
from service.stream.closings import Closings
from service.stream.control import Control, KeyRecord
from service.stream.courier import Courier
from service.stream.cursors import Cursors
from service.stream.duties import Duties
from service.stream.ephemerals import Ephemerals
from service.stream.erasures import Erasures
from service.stream.figures import figures
from service.stream.follower import Follower
from service.stream.hub import Hub
from service.stream.limits import Limits
from service.stream.presence import Presence
from service.stream.receipts import Receipts
from service.stream.retention import Retention
from service.stream.scheduler import Scheduler
from service.stream.sessions import Sessions
from service.stream.webhook import Webhook

log = logging.getLogger("tidings.app")


@asynccontextmanager
async def running(settings: Settings, version: str) -> AsyncIterator[dict[str, Any]]:
    """Build the parts, run their tasks, yield them as the application's state, and end in order."""
    if settings.database_url is None:
        raise SystemExit("TIDINGS_DATABASE_URL is not set")
    url = settings.database_url.get_secret_value()
    await schema.check(url)
    rules = Rules(settings.max_data, settings.schedule_horizon, callbacks=settings.callback_url is not None)
    async with AsyncExitStack() as stack:
        database = _opened(stack, url, settings.pool_size)
        start, ahead = await _begun(settings, database, rules)
        instance, metrics = uuid4().hex, Metrics()
        notifier = _notifier(settings, url, start)
        stack.push_async_callback(notifier.aclose)
        cursors = Cursors(database, metrics)
        follow = _following(
            settings, database, notifier, cursors, metrics, start, ahead=ahead, instance=instance
        )
        follower, courier, control, hub = follow.follower, follow.courier, follow.control, follow.follower.hub
        ephemerals = Ephemerals(hub, courier)
        appender = Appender(
            database, metrics, committed=courier.committed, seen=lambda: follower.seen,
            timeout=settings.append_timeout, window=settings.id_window,
        )  # fmt: skip
        scheduler = Scheduler(
            _opened(stack, url, 1), follower, courier, metrics,
            window=settings.id_window, notified=settings.sql_notify,
        )  # fmt: skip
        limits = Limits(
            control.keyring, key=limit_of(settings.key_rate),
            user=limit_of(settings.user_rate, settings.user_burst),
        )  # fmt: skip
        sessions = Sessions(database, hub.recent, cursors, settings.max_devices_per_user)
        verifier = verifier_from(settings)
        stack.push_async_callback(verifier.aclose)
        gateway = Gateway(
            settings, database, verifier, control.revocations, follower, courier, ephemerals, appender,
            sessions, cursors, limits, metrics, identity=start.identity,
        )  # fmt: skip
        stack.push_async_callback(gateway.close)
        duties = Duties(settings, database, control, follower, cursors, limits, metrics)
        await duties.note()  # and learn what counts against quotas
        presence = Presence(
            _opened(stack, url, 1), hub, courier, partial(figures, follower, control), metrics,
            Lease(instance, version, settings.lease, settings.presence_linger),
        )  # fmt: skip
        stack.push_async_callback(presence.close)
        await presence.flush()  # from now on the others know of this instance
        service = Service(
            settings, rules, instance, database, follower, courier, follow.closings, ephemerals, appender,
            scheduler, control, cursors, Receipts(database, hub, cursors), presence, control.keyring,
            verifier, minter_from(settings), limits, metrics,
        )  # fmt: skip
        await _run_all(
            stack, follower.run(), courier.listen(), courier.post(), courier.deliver(), appender.run(),
            scheduler.run(), sessions.run(), cursors.run(), duties.run(), presence.run(), presence.tell(),
            _retention(settings, url, metrics), Erasures(database, follower).run(), gateway.pulse.beat(),
            gateway.pulse.ask(),
            *_callbacks(settings, database, cursors, metrics, start.identity),
        )  # fmt: skip

        async def drain() -> None:
            await gateway.drain(settings.drain_grace, settings.drain_timeout)
            service.receipts.leave()
            try:
                async with asyncio.timeout(settings.drain_timeout):
                    await appender.drained()
                    await cursors.flush()
                    await duties.note()
                    await presence.leave()
            except (TidingsError, TimeoutError) as error:
                log.warning("the drain was cut short: %s", error)

        yield {"service": service, "gateway": gateway, "drain": drain}


def _opened(stack: AsyncExitStack, url: str, size: int) -> Database:
    database = Database(url, size)
    stack.push_async_callback(database.close)
    return database


async def _begun(settings: Settings, database: Database, rules: Rules) -> tuple[store.Start, float]:
    """Read what the instance begins with; also return what the database's clock is ahead of the loop's."""
    async with database.connection() as connection:
        await store.ensure_partitions(connection)
        await pending.configure(connection, rules, sql_notify=settings.sql_notify)
        asked = asyncio.get_running_loop().time()
        start = await store.start(connection)
    if start.fsync == "off":
        log.error("PostgreSQL runs with fsync=off: a crash can lose or corrupt what was acknowledged")
    if start.synchronous_commit == "off":
        log.warning("synchronous_commit is off by default here; appends turn it on for themselves")
    return start, start.now - asked


def _notifier(settings: Settings, url: str, start: store.Start) -> Notifier:
    """Return what carries messages between the instances that follow this log."""
    # Any role may listen and notify on a channel whose name it knows.
    channel = f"tidings:{channel_of(start.identity, start.seal)}"
    if settings.redis_url is None:
        return PostgresNotifier(url, channel)
    if find_spec("redis") is None:
        raise SystemExit("TIDINGS_REDIS_URL needs redis-py: install tidings[redis]")
    adapter = import_module("service.notify.redis")
    return cast("Notifier", adapter.RedisNotifier(settings.redis_url.get_secret_value(), channel))


class _Following(NamedTuple):
    """What follows the log, and tells and hears the other instances."""

    follower: Follower
    courier: Courier
    control: Control
    closings: Closings


def _following(
    settings: Settings, database: Database, notifier: Notifier, cursors: Cursors, metrics: Metrics,
    start: store.Start, *, ahead: float, instance: str,
) -> _Following:  # fmt: skip
    control = Control(_revocations(start), _keyring(settings, start), cursors)
    hub = Hub(start.head, Recent(start.head, settings.recent_bytes), control)
    follower = Follower(database, hub, control, metrics, lineage=start.lineage, ahead=ahead)
    courier = Courier(notifier, follower, metrics, instance=instance, key=start.seal)
    closings = Closings(courier, instance)
    control.count = closings.count
    return _Following(follower, courier, control, closings)


def _retention(settings: Settings, url: str, metrics: Metrics) -> Coroutine[Any, Any, None]:
    return Retention(url, Keep(settings.retention or None, settings.retention_bytes), metrics).run()


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


def _revocations(start: store.Start) -> Revocations:
    revocations = Revocations()
    for revocation in start.revocations:
        revocations.add(revocation, time())
    return revocations


def _keyring(settings: Settings, start: store.Start) -> Keyring:
    admin_key = settings.admin_key
    keyring = Keyring(None if admin_key is None else admin_key.get_secret_value())
    for record in msgspec.json.decode(start.keys, type=list[KeyRecord]):
        keyring.put(record.as_key())
    return keyring
