"""Revocations: how soon sockets are closed, also those that nobody reads, and with Redis away."""

from time import monotonic
from typing import Final

import msgspec

from proof.crowd import Client, Crowd, crowd, insist, until
from proof.figures import percentile
from proof.instance import ADMIN_KEY
from proof.play import Play
from proof.stage import Stage
from proof.wire import Caller

SILENT: Final = 10
"""One client of so many does not read."""
WITH_REDIS: Final = 0.25
WITHOUT: Final = 1.5
"""Seconds until all but one of a hundred revoked sockets are closed."""
BOUND: Final = 30.0
"""Seconds until each is: all that a quick run is held to, on whatever machine."""


async def revocation(play: Play) -> None:
    """Revoke users one after the other, by either instance, while events go to everyone."""
    size, victims = play.count(1000, 200), play.count(200, 16)
    async with play.stage() as stage:
        urls = [instance.url for instance in stage.instances]
        async with crowd(size, lambda number: [urls[number % 2]], urls[0], play.rng) as fans:
            silent = [c for number, c in enumerate(fans.clients) if number % SILENT == 0]
            await _fall_silent(fans, silent)
            async with fans.published_to(every=0.25):
                chosen = play.rng.sample(fans.clients, 2 * victims)
                await _revoke(play, stage, chosen[:victims], "", WITH_REDIS)
                stage.redis.kill()
                await _revoke(play, stage, chosen[victims:], ", with Redis down", WITHOUT)


async def _fall_silent(fans: Crowd, silent: list[Client]) -> None:
    """Have some not read any more, and send them more than the kernel and a write buffer take."""
    for begin in range(0, len(silent), 100):
        names = [client.user for client in silent[begin : begin + 100]]
        await insist(fans.caller, "/v1/rooms/silent/members", {"add": names, "remove": []}, 200)
    for client in silent:
        if client.wire is not None:
            client.wire.read(on=False)
    for _ in range(4):
        await fans.publish("room:silent", size=30_000, count=30)


async def _revoke(play: Play, stage: Stage, victims: list[Client], how: str, bound: float) -> None:
    callers = [Caller(instance.url, ADMIN_KEY) for instance in stage.instances]
    took, late = [], 0
    try:
        for number, client in enumerate(victims):
            seconds, after = await _revoke_one(client, callers[number % len(callers)])
            took.append(seconds)
            late += after
    finally:
        for caller in callers:
            caller.close()
    for name, value in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        most = bound if name == "p99" and not play.quick else None
        play.figure(f"revoked to closed{how}, {name}", percentile(took, value), "s", most=most)
    play.figure(f"events that were committed after a revocation, and written to it{how}", late, most=0)


async def _revoke_one(client: Client, caller: Caller) -> tuple[float, int]:
    """Revoke a user; return how long its socket stayed open from then on, and what came too late."""
    client.dismissed = True
    begun = monotonic()
    reply = await insist(caller, "/v1/revocations", {"user": client.user}, 201)
    position = msgspec.json.decode(reply.body)["position"]
    await until(lambda: client.wire is None or not client.wire.is_served, BOUND)
    took = monotonic() - begun
    if client.wire is not None:
        client.wire.read(on=True)  # what lies in the kernel counts too
    await until(lambda: client.left, BOUND)
    return took, sum(at > position for at in client.positions)
