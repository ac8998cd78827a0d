"""The proxy breaks links as it says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Literal

import pytest

from proof.proxy import Ends, Proxy, proxying
from tests.harness import PATIENCE, eventually

SHORT = 0.3
"""Seconds in which what is not to come would have come."""

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Proxy, Pair, Pair]]:
    """Give a proxy, and the two ends of a connection by way of it."""
    arrived: asyncio.Queue[Pair] = asyncio.Queue()
    server = await asyncio.start_server(lambda *ends: arrived.put_nowait(ends), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def connect() -> Ends:
        return await asyncio.open_connection("127.0.0.1", port)

    async with proxying(connect) as proxy:
        near = await asyncio.open_connection("127.0.0.1", proxy.port)
        far = await arrived.get()
        await eventually(lambda: len(proxy) == 1)
        try:
            yield proxy, near, far
        finally:
            later = [arrived.get_nowait() for _ in range(arrived.qsize())]
            for _, writer in (near, far, *later):
                writer.transport.abort()
            server.close()


async def passes(sender: Pair, receiver: Pair, within: float = PATIENCE) -> bool:
    """Send something; tell whether it arrives in time."""
    sender[1].write(b"x")
    try:
        async with asyncio.timeout(within):
            return await receiver[0].readexactly(1) == b"x"
    except (TimeoutError, OSError, EOFError):
        return False


async def ended(end: Pair, within: float = PATIENCE) -> bool:
    """Tell whether a side learns in time that the connection is over."""
    try:
        async with asyncio.timeout(within):
            return await end[0].read(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


async def test_what_is_not_broken_passes_both_ways() -> None:
    async with linked() as (_, near, far):
        assert await passes(near, far)
        assert await passes(far, near)


async def test_one_direction_is_lost_and_the_other_is_not() -> None:
    async with linked() as (proxy, near, far):
        proxy.requests.lose = True
        assert not await passes(near, far, within=SHORT)
        assert await passes(far, near)
        assert not await ended(near, within=SHORT)
        proxy.heal()
        # It would go on with a hole in it.
        assert await ended(near)
        assert await ended(far)


async def test_a_black_hole_tells_nobody() -> None:
    async with linked() as (proxy, near, far):
        proxy.blackhole()
        assert not await passes(near, far, within=SHORT)
        assert not await passes(far, near, within=SHORT)
        assert not await ended(near, within=SHORT)


@pytest.mark.parametrize("end", ["near", "far"])
async def test_one_side_ends_and_the_other_is_not_told(end: Literal["near", "far"]) -> None:
    async with linked() as (proxy, near, far):
        told, untold = (near, far) if end == "near" else (far, near)
        proxy.halve(end)
        assert await ended(told)
        assert not await ended(untold, within=SHORT)
        assert not await passes(untold, told, within=SHORT)
        proxy.heal()
        assert await ended(untold)


async def test_pieces_are_held_back() -> None:
    async with linked() as (proxy, near, far):
        proxy.replies.delay = 0.1
        begun = monotonic()
        assert await passes(far, near)
        assert monotonic() - begun > 0.095  # a loop's clock counts milliseconds
        proxy.heal()
        assert await passes(near, far)


async def test_a_rate_is_kept() -> None:
    async with linked() as (proxy, near, far):
        proxy.requests.rate = 100_000
        begun = monotonic()
        near[1].write(b"x" * 40_000)
        assert len(await far[0].readexactly(40_000)) == 40_000
        assert monotonic() - begun >= 0.2


async def test_who_is_refused_hears_no_word_and_comes_in_after_the_heal() -> None:
    async with linked() as (proxy, near, far):
        proxy.refuse = True
        proxy.cut()
        assert await ended(near)
        assert await ended(far)
        async with another(proxy) as refused:
            assert await ended(refused)
        proxy.heal()
        async with another(proxy) as let_in:
            assert not await ended(let_in, within=SHORT)


@asynccontextmanager
async def another(proxy: Proxy) -> AsyncIterator[Pair]:
    """Connect once more."""
    pair = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield pair
    finally:
        pair[1].transport.abort()
