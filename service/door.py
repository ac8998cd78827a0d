"""Who comes in by which way: uvicorn's protocol class, and the first thing that a client meets.

Clients and events are let in by short ways of their own, for they are nearly all that ever comes.
Whatever else comes, or comes in an unusual form, uvicorn's own protocol gets byte for byte; it finds
the same answers, by FastAPI's routes and the same edge for clients.
"""

import asyncio
from functools import partial
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from service.api.http import HEAD_TIMEOUT, Http
from service.api.intake import Intake, is_ours
from service.domain.request import Request, read_request
from service.gateway import handshake, subscription

EDGES: Final = {handshake.PATH: handshake.Handshake, subscription.PATH: subscription.Subscription}


class Door(asyncio.Protocol):
    """Waits for the first bytes and hands the socket on."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:  # fmt: skip
        if config.is_ssl:
            raise RuntimeError(
                "TLS is the proxy's job: events are sent past the transport that would encrypt them"
            )
        self._config = config
        self._state = server_state
        self._parts = app_state
        self._transport = cast("asyncio.Transport", None)
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait, but not for ever."""
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(cast("Any", self))
        self._late = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Let in by the way that fits."""
        self._leave()
        request = read_request(data)
        let_in = partial(_let_client_in, self._config, self._state, self._parts)
        if request is not None and let_in(self._transport, request, data[request.end :]):
            return
        general = partial(Http, self._config, self._state, self._parts, let_in)
        if request is not None and is_ours(request):
            keep_alive = self._config.timeout_keep_alive
            way: asyncio.Protocol = Intake(self._parts["service"], self._state, general, keep_alive)
        else:
            way = general()
        way.connection_made(self._transport)
        self._transport.set_protocol(way)
        way.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody came in."""
        self._leave()

    def eof_received(self) -> bool:
        """Close."""
        return False

    def shutdown(self) -> None:
        """Close: uvicorn stops."""
        self._transport.close()

    def _leave(self) -> None:
        self._state.connections.discard(cast("Any", self))
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _let_client_in(
    config: Config, state: ServerState, parts: dict[str, Any], transport: asyncio.Transport,
    request: Request, early: bytes = b"",
) -> bool:  # fmt: skip
    """Hand a socket to the edge for clients; tell whether that is what its request is for."""
    edge = EDGES.get(request.target.partition("?")[0]) if request.method == "GET" else None
    if edge is None:
        return False
    entrance = edge(config, state, parts)
    entrance.connection_made(transport)
    transport.set_protocol(entrance)
    entrance.begin(request, early)
    return True
