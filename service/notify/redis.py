"""Redis' publish and subscribe: for deployments that have a Redis, and spare their database the work."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.domain.errors import Unavailable
from service.notify.port import Notifier

TIMEOUT: Final = 2.0
"""Seconds within which Redis has to take a connection and to answer."""
PROBE_AFTER: Final = 2.0
"""Seconds of silence after which it is asked whether it is still there."""


class RedisNotifier(Notifier):
    """Publishes on one connection and subscribes on another.

    Redis keeps nothing of it: while it is away, instances learn of each other's events once a second.
    """

    capacity = 64 * 1024

    def __init__(self, url: str, channel: str) -> None:
        # By itself it would subscribe again after a cut, and not tell what was missed.
        self._redis = Redis.from_url(
            url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=Retry(NoBackoff(), 0),
            decode_responses=True, encoding_errors="replace",  # what is no text breaks its own seal
        )  # fmt: skip
        self._channel = channel

    async def publish(self, texts: Sequence[str]) -> None:
        """Publish all of them with one round trip."""
        with _translated():
            async with self._redis.pipeline(transaction=False) as pipeline:
                for text in texts:
                    pipeline.publish(self._channel, text)
                await pipeline.execute()

    async def listen(self, receive: Callable[[str], None], ready: Callable[[], None]) -> None:
        """Subscribe, and ask whether Redis is still there where nothing comes."""
        with _translated():
            async with self._redis.pubsub() as pubsub:
                await pubsub.subscribe(self._channel)
                asked = False
                while True:
                    message = await pubsub.get_message(timeout=PROBE_AFTER)
                    if message is None:
                        if asked:
                            raise Unavailable("Redis does not answer")
                        asked = True
                        await pubsub.ping()
                        continue
                    asked = False
                    if message["type"] == "subscribe":
                        ready()
                    elif message["type"] == "message":
                        receive(message["data"])

    async def aclose(self) -> None:
        """Close its connections."""
        await self._redis.aclose()


@contextmanager
def _translated() -> Iterator[None]:
    """Raise our own error for Redis' and the network's."""
    try:
        yield
    except (TimeoutError, RedisError, OSError) as error:
        raise Unavailable("Redis cannot be reached just now") from error
