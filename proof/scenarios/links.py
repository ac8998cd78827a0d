"""Links that are cut, slow, or dead without a word, under load."""

from collections.abc import Callable, Sequence
from typing import Final

from proof.play import Load, Play
from proof.proxy import Proxy

SLOW: Final = 20_000
"""Bytes a second."""
LATE: Final = 0.2
"""Seconds for each piece."""


def _refuse(proxy: Proxy) -> None:
    proxy.refuse = True
    proxy.cut()


def _delay(proxy: Proxy) -> None:
    proxy.requests.delay = proxy.replies.delay = LATE


def _throttle_requests(proxy: Proxy) -> None:
    proxy.requests.rate = SLOW


def _throttle_replies(proxy: Proxy) -> None:
    proxy.replies.rate = SLOW


def _lose_requests(proxy: Proxy) -> None:
    proxy.requests.lose = True


def _lose_replies(proxy: Proxy) -> None:
    proxy.replies.lose = True


def _half_open_near(proxy: Proxy) -> None:
    proxy.halve("near")


def _half_open_far(proxy: Proxy) -> None:
    proxy.halve("far")


BREAKS: Final[Sequence[tuple[str, Callable[[Proxy], None]]]] = (
    ("cut", Proxy.cut),
    ("refused", _refuse),
    ("delayed", _delay),
    ("requests throttled", _throttle_requests),
    ("replies throttled", _throttle_replies),
    ("requests lost", _lose_requests),
    ("replies lost", _lose_replies),
    ("a black hole", Proxy.blackhole),
    ("half-open: the far end is not told", _half_open_near),
    ("half-open: the near end is not told", _half_open_far),
)


KINDS: Final = {"clients": "of clients", "database": "to PostgreSQL", "redis": "to Redis"}


async def links_of_clients(play: Play) -> None:
    """Break what lies between clients and an instance."""
    await _break_each(play, "clients")


async def links_to_postgres(play: Play) -> None:
    """Break what lies between an instance and PostgreSQL."""
    await _break_each(play, "database")


async def links_to_redis(play: Play) -> None:
    """Break what lies between an instance and Redis."""
    await _break_each(play, "redis")


async def redis_black_hole(play: Play) -> None:
    """Lose all that goes to Redis and comes from it, for all instances at once."""
    async with play.stage() as stage, play.load(stage) as load:
        await load.go(1.0)
        for _ in range(play.count(5, 1)):
            await _broken(load, "a black hole before Redis", "redis", Proxy.blackhole, 3.0)


async def _break_each(play: Play, link: str) -> None:
    """Break the link of one instance in each way, then of another; in a quick run some links in some ways."""
    breaks = BREAKS[[*KINDS].index(link) :: len(KINDS)] if play.quick else BREAKS
    async with play.stage() as stage, play.load(stage) as load:
        await load.go(1.0)
        for number in range(play.count(len(stage.links), 1)):
            for turn, (kind, strike) in enumerate(breaks):
                at = (number + turn) % len(stage.links)
                seconds = play.rng.uniform(0.5, 1.5) if play.quick else play.rng.uniform(1, 4)
                await _broken(load, f"link {KINDS[link]} {kind}", link, strike, seconds, at)


async def _broken(
    load: Load, what: str, link: str, strike: Callable[[Proxy], None], seconds: float, at: int | None = None
) -> None:
    """Break the link of one instance or of all, for so long; then see a while that all is well."""
    links = load.stage.links if at is None else [load.stage.links[at]]
    proxies: list[Proxy] = [getattr(one, link) for one in links]
    with load.broken(what, "all" if at is None else load.stage.instances[at].name):
        for proxy in proxies:
            strike(proxy)
        await load.go(seconds)
        for proxy in proxies:
            proxy.heal()
    await load.go(0.5)
