"""The opening handshake: uvicorn's protocol class for WebSockets.

A refused client gets an HTTP problem; one that offers the subprotocol ``tidings.v1`` is accepted and
closed at once, because a browser can read a close code and no HTTP status.
"""

import asyncio
from typing import Final, cast
from uuid import uuid4

from service.domain.errors import (
    Forbidden,
    Invalid,
    NotFound,
    RateLimited,
    TidingsError,
    Unauthorized,
    Unavailable,
)  # fmt: skip
from service.domain.frames import Farewell
from service.domain.request import Request, read_request
from service.domain.upgrade import BadHandshake, Upgrade, accept_key, check_upgrade, switching_protocols
from service.domain.websocket import close_frame, text_frame
from service.gateway.connection import CLOSE_TIMEOUT
from service.gateway.entrance import Entrance, query_of, read_query
from service.gateway.websocket import WebSocket

PATH: Final = "/v1/ws"
SUBPROTOCOL: Final = "tidings.v1"
PLAIN: Final = b"text/plain; charset=utf-8"

_CLOSE_CODES: Final[dict[type[TidingsError], int]] = {
    Unauthorized: 4001, Forbidden: 4003, RateLimited: 4029, Invalid: 1008, NotFound: 1008, Unavailable: 1012,
}  # fmt: skip


class Handshake(Entrance):
    """Answers an upgrade request."""

    kind = WebSocket
    _upgrade: Upgrade | None = None

    def data_received(self, data: bytes) -> None:
        """Take the request, as uvicorn hands it on."""
        if self._task is not None:
            super().data_received(data)
            return
        request = read_request(data)
        if request is None:
            self._answer(400, PLAIN, b"the head of the request cannot be read")
        else:
            self.begin(request, data[request.end :])

    async def _let_in(self, request: Request) -> None:
        try:
            self._upgrade = upgrade = check_upgrade(request.method, request.headers)
        except BadHandshake as error:
            self._answer(error.status, PLAIN, error.message.encode(), error.headers)
            return
        if request.target.partition("?")[0] != PATH:
            raise NotFound("the WebSocket is at " + PATH)
        query = query_of(request)
        token = self._credentials(request.headers, query, _offered_token(upgrade))
        await self._admit(token, read_query(query, self._gateway.identity))

    def _accept(self) -> bytes:
        upgrade = cast("Upgrade", self._upgrade)
        chosen = SUBPROTOCOL if SUBPROTOCOL in upgrade.subprotocols else None
        return switching_protocols(accept_key(upgrade.key), chosen)

    def _refuse(self, error: TidingsError) -> None:
        if self._upgrade is None or SUBPROTOCOL not in self._upgrade.subprotocols:
            self._answer_problem(error, uuid4().hex)
        elif self._transport is not None:
            code = next((c for kind, c in _CLOSE_CODES.items() if isinstance(error, kind)), 1011)
            last = Farewell(code, str(error), reconnect=isinstance(error, Unavailable)).frame()
            self._transport.write(self._accept() + text_frame(last) + close_frame(code, str(error)))
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._abort)


def _offered_token(upgrade: Upgrade) -> str | None:
    for offered in upgrade.subprotocols:
        if offered.startswith("bearer."):
            return offered.removeprefix("bearer.")
    return None
