"""Heartbeats and acknowledgement pings, at a cost that does not grow with what is delivered."""

import asyncio
from itertools import cycle
from time import time
from typing import Final

from service.domain.delivery import State
from service.domain.frames import frame
from service.domain.websocket import text_frame
from service.gateway.connection import Connection
from service.stream.cursors import Cursors
from service.stream.hub import Hub

MAX_SPOKES: Final = 32


class Pulse:
    """A wheel of connections: each turn, within one heartbeat, looks at each of them once.

    Besides, connections that were written to are pinged once in an ack interval, found by the
    addresses that were written to, so that the hub's loop keeps no books for it.
    """

    def __init__(self, hub: Hub, cursors: Cursors, heartbeat: float, ack_interval: float) -> None:
        self._hub = hub
        self._cursors = cursors
        self._ack_interval = ack_interval
        self._tick = heartbeat / MAX_SPOKES
        self._spokes: list[dict[Connection, None]] = [{} for _ in range(MAX_SPOKES)]
        self._next = cycle(range(MAX_SPOKES))
        self._late: set[Connection] = set()

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
        self._late.discard(connection)

    async def beat(self) -> None:
        """Turn the wheel until cancelled."""
        while True:
            for spoke in self._spokes:
                await asyncio.sleep(self._tick)
                self._look_at(list(spoke))

    async def ask(self) -> None:
        """Ping whoever was written to, once in an ack interval, until cancelled."""
        while True:
            await asyncio.sleep(self._ack_interval)
            self.ask_once()

    def ask_once(self) -> None:
        """Ping whoever was written to since the last time, where no ping is outstanding."""
        touched, self._hub.touched = self._hub.touched, set()
        late, self._late = self._late, set()
        for address in touched:
            late.update(c for c in self._hub.receivers(address) if isinstance(c, Connection))
        for connection in late:
            if connection.manual or connection.state is not State.LIVE:
                continue
            if connection.pinged is not None:
                self._late.add(connection)
            elif connection.acked < self._hub.position:
                connection.send_ping()

    def _look_at(self, connections: list[Connection]) -> None:
        heartbeat = text_frame(frame("ping", ts=round(time() * 1000)))
        for connection in connections:
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
