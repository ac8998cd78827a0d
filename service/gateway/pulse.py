"""Heartbeats and acknowledgement pings, at a cost that does not grow with what is delivered."""

import asyncio
from itertools import cycle, islice
from time import time
from typing import Final

from service.domain.delivery import State
from service.domain.frames import frame
from service.domain.websocket import text_frame
from service.gateway.connection import Connection
from service.stream.cursors import Cursors
from service.stream.hub import Hub

MAX_SPOKES: Final = 32
ASKS_A_SECOND: Final = 2_000
"""Connections that are asked how far they have got: a ping and its pong take some 17 µs, so that all
of them take 3 % of a core. Where more were written to, each of them is asked more rarely."""
TURNS: Final = 10
"""In which the asks of an ack interval are made, so that no event waits behind all of them."""
AT_ONCE: Final = 100
"""Connections that are looked at before others may use the loop: for 1 ms."""


class Pulse:
    """A wheel of connections: each turn, within one heartbeat, looks at each of them once.

    Besides, connections that were written to are pinged, at most once in an ack interval. They are
    found by the addresses that were written to, so that the hub's loop keeps no books for it.
    """

    def __init__(self, hub: Hub, cursors: Cursors, heartbeat: float, ack_interval: float) -> None:
        self._hub = hub
        self._cursors = cursors
        self._ack_interval = ack_interval
        self._tick = heartbeat / MAX_SPOKES
        self._spokes: list[dict[Connection, None]] = [{} for _ in range(MAX_SPOKES)]
        self._next = cycle(range(MAX_SPOKES))
        self._due: dict[Connection, None] = {}
        """Written to and not asked yet; who has waited longest comes first."""

    def add(self, connection: Connection) -> None:
        """Look after a connection from now on."""
        connection.spoke = next(self._next)
        self._spokes[connection.spoke][connection] = None
        self.watch_expiry(connection)

    def watch_expiry(self, connection: Connection) -> None:
        """Let the connection end with its token; further off than two turns, it is looked at again."""
        connection.expire_within(2 * MAX_SPOKES * self._tick, time())

    def remove(self, connection: Connection) -> None:
        """Look after it no longer."""
        self._spokes[connection.spoke].pop(connection, None)
        self._due.pop(connection, None)

    async def beat(self) -> None:
        """Turn the wheel until cancelled."""
        while True:
            for spoke in self._spokes:
                await asyncio.sleep(self._tick)
                connections = list(spoke)
                for begin in range(0, len(connections), AT_ONCE):
                    self._look_at(connections[begin : begin + AT_ONCE])
                    await asyncio.sleep(0)

    async def ask(self) -> None:
        """Ask whoever was written to, at most once in an ack interval, until cancelled."""
        some = max(1, round(ASKS_A_SECOND * self._ack_interval / TURNS))
        while True:
            self.gather()
            for _ in range(TURNS):
                await asyncio.sleep(self._ack_interval / TURNS)
                self.ask_some(some)

    def gather(self) -> None:
        """Find who was written to since the last time."""
        touched, self._hub.touched = self._hub.touched, set()
        for address in touched:
            found = [c for c in self._hub.receivers(address) if isinstance(c, Connection) and not c.manual]
            self._due |= dict.fromkeys(found)

    def ask_some(self, some: int) -> None:
        """Ping those that have waited longest; who has yet to answer the last one goes on waiting."""
        for connection in list(islice(self._due, some)):
            del self._due[connection]
            if connection.state is not State.LIVE:
                continue
            if connection.pinged is not None:
                self._due[connection] = None
            elif connection.acked < self._hub.position:
                connection.send_ping()

    def _look_at(self, connections: list[Connection]) -> None:
        heartbeat = text_frame(frame("ping", ts=round(time() * 1000)))
        for connection in connections:
            if connection.state is State.CLOSED:  # since the turn began
                continue
            self.watch_expiry(connection)
            if not connection.alive():
                connection.end(4009, "dead link", reconnect=True)
            elif not connection.paused:
                connection.send_ping(heartbeat)
                self._follow(connection)

    def _follow(self, connection: Connection) -> None:
        position = connection.follow(self._hub.last_written(connection), self._hub.position)
        if position is not None:
            self._cursors.mark(connection.user, connection.device, position)
