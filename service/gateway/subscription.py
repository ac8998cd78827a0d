"""The request for a stream, ``GET /v1/stream``, and its answer.

The response has no length and no chunks, and ends with its connection (RFC 9112 §6.3): that is HTTP/1.0
too, which proxies still speak; and what is written is what is sent, to whomever.
"""

import random
from typing import Final
from uuid import uuid4

from service.domain.errors import TidingsError, Unavailable
from service.domain.frames import Farewell
from service.domain.problems import status_of
from service.domain.request import Headers, Request, is_sound_id
from service.domain.response import response_head
from service.domain.sse import retry
from service.gateway.entrance import Entrance, header, position_of, query_of, read_query
from service.gateway.sse import EventStream, last_message

PATH: Final = "/v1/stream"
PAUSES: Final = 1000, 3000
"""Milliseconds, from and to, after which clients reconnect by themselves: not all at once after a crash."""

_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"connection", b"close"),
)


class Subscription(Entrance):
    """Answers a request for a stream."""

    kind = EventStream
    _headers: Headers = ()
    _request_id = ""

    async def _let_in(self, request: Request) -> None:
        self._headers = request.headers
        given = header(request.headers, b"x-request-id")
        self._request_id = given if is_sound_id(given) else uuid4().hex
        query = query_of(request)
        token = self._credentials(request.headers, query)
        asked = read_query(query, self._gateway.identity)._replace(manual=True)
        if last := header(request.headers, b"last-event-id"):
            position = position_of(last, "#/Last-Event-ID")
            asked = asked._replace(after=position, has=position)
        await self._admit(token, asked)

    def _accept(self) -> bytes:
        self._gateway.metrics.count_request("GET", PATH, 200)
        own = (b"x-request-id", self._request_id.encode())
        headers = [*self._state.default_headers, *_HEADERS, own, *self._shared()]
        return response_head(200, headers) + retry(random.randint(*PAUSES))  # noqa: S311 - spreads load

    def _refuse(self, error: TidingsError) -> None:
        if isinstance(error, Unavailable) and "text/event-stream" in header(self._headers, b"accept"):
            self._send_away(error)
            return
        self._gateway.metrics.count_request("GET", PATH, status_of(error))
        self._answer_problem(error, self._request_id, self._shared())

    def _send_away(self, error: Unavailable) -> None:
        """Let an EventSource come back: whatever is not 200 it takes as final (HTML §9.2.3)."""
        if self._transport is not None:
            last = Farewell(1012, str(error), reconnect=True, retry_after_ms=random.randint(*PAUSES))  # noqa: S311
            self._transport.write(self._accept() + last_message(last))
            self._transport.close()

    def _shared(self) -> Headers:
        """Return the headers that let an allowed page of another origin read the answer (Fetch §3.3)."""
        settings, origin = self._gateway.settings, header(self._headers, b"origin")
        if origin not in settings.origins:
            return ()
        shared = [
            (b"vary", b"origin"),
            (b"access-control-allow-origin", origin.encode()),
            (b"access-control-expose-headers", b"x-request-id, retry-after"),
        ]
        if settings.cookie:
            shared.append((b"access-control-allow-credentials", b"true"))
        return shared
