"""The short way in for events: one producer's connection, without ASGI.

A ``POST`` of events in the plain form is read, submitted and answered by callbacks alone, without a
task, a scope or a middleware: 40 µs of CPU where the routes take 200. The first request that is
anything else, or that needs what only the routes know (CORS, ``Expect``, chunks), goes to uvicorn's
protocol byte for byte, and so does all that follows on its connection.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import time
from typing import Any, Final, NamedTuple, cast

from uvicorn.server import ServerState

from service.api.access import BODY_TIMEOUT, key_of
from service.api.http import HEAD_TIMEOUT, UNREAD_TIMEOUT
from service.api.ingest import (
    PATHS,
    Post,
    answer,
    has_original,
    originals_of,
    pass_on,
    read_post,
    submit,
)  # fmt: skip
from service.api.middleware import about, request_id
from service.api.service import Service
from service.auth.keys import ApiKey
from service.domain.cloudevents import SPECVERSION
from service.domain.errors import TidingsError
from service.domain.events import Outcome
from service.domain.limits import Standing, ratelimit_headers
from service.domain.problems import CONTENT_TYPE, problem_body, problem_headers, status_of
from service.domain.request import MAX_HEAD, Headers, Request, read_request
from service.domain.response import response
from service.store.log import Original

log = logging.getLogger("tidings.api")

MAX_AHEAD: Final = 64 * 1024
"""Bytes of further requests that may wait for the answer to the one before."""

_ELSEWHERE: Final = frozenset({
    b"origin", b"expect", b"transfer-encoding", b"upgrade", SPECVERSION.encode(),
})  # fmt: skip
"""Headers that only the general way knows how to deal with."""

Header = tuple[bytes, bytes]


class _Head(NamedTuple):
    """A head that has been read; the body lies between ``begins`` and ``ends`` in what has come."""

    path: str
    authorization: str
    key: ApiKey
    begins: int
    ends: int
    request_id: str
    once: Mapping[str, str]
    """The ``Idempotency-Key`` by its name, if there is one."""
    headers: Headers
    standings: Sequence[Standing] = ()


class Intake(asyncio.Protocol):
    """Takes over a connection whose first request ``is_ours``."""

    def __init__(
        self, service: Service, state: ServerState, general: Callable[[], asyncio.Protocol],
        keep_alive: float,
    ) -> None:  # fmt: skip
        """``general`` makes uvicorn's protocol; ``keep_alive`` is in seconds."""
        self._service = service
        self._state = state
        self._general = general
        self._keep_alive = keep_alive
        self._loop = asyncio.get_running_loop()
        self._transport = cast("asyncio.Transport", None)
        self._data = b""
        self._at = 0
        """What comes before it in the data has been dealt with."""
        self._head: _Head | None = None
        self._busy = False
        """An answer is under way, or the last one is not read."""
        self._leaving = False
        self._used_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._searched = 0
        """Bytes of what is unread in which no head ends."""
        self._next: asyncio.Handle | None = None
        """The step of the loop that reads the next request."""

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket."""
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(cast("Any", self))
        self._timer = self._loop.call_later(self._keep_alive, self._close_if_idle)

    def data_received(self, data: bytes) -> None:
        """Take what the producer sent; what comes before the answer waits for it."""
        if not self._unread:
            self._used_at = self._loop.time()
        if self._head is None:
            self._data, self._at = self._data[self._at :], 0
        self._data += data
        if not self._waits:
            self._read()
        if self._waits and self._unread > MAX_AHEAD:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """Read no more from who does not read answers, and wait for that, but not for ever."""
        self._busy = True
        self._forget_stuck()
        self._stuck = self._loop.call_later(UNREAD_TIMEOUT, self._transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        self._busy = False
        self._forget_stuck()
        self._read_on()

    def eof_received(self) -> bool:
        """Close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go. What was submitted is committed all the same."""
        self._leave()

    def shutdown(self) -> None:
        """Close once nothing is under way: uvicorn stops."""
        self._leaving = True
        if not self._busy and not self._unread:
            self._close()

    def _close(self) -> None:
        """Close, and wait for what is not read no longer than for any answer."""
        self._transport.close()
        if self._stuck is None:
            self._stuck = self._loop.call_later(UNREAD_TIMEOUT, self._transport.abort)

    def _leave(self) -> None:
        self._state.connections.discard(cast("Any", self))
        self._forget_stuck()
        if self._next is not None:
            self._next.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _forget_stuck(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _close_if_idle(self) -> None:
        """Close where nothing has come for too long, or a request is too long in coming."""
        patience = self._keep_alive
        if self._unread:
            patience = HEAD_TIMEOUT if self._head is None else BODY_TIMEOUT
        idle = 0.0 if self._busy else self._loop.time() - self._used_at
        if idle >= patience:
            self._close()
        else:
            self._timer = self._loop.call_later(patience - idle, self._close_if_idle)

    # Requests

    @property
    def _unread(self) -> int:
        return len(self._data) - self._at

    @property
    def _waits(self) -> bool:
        """Tell whether the next request is read once what is under way is done, whoever sends more."""
        return self._busy or self._next is not None

    def _read_on(self) -> None:
        self._next = None
        if self._busy or self._transport.is_closing():
            return
        if self._unread <= MAX_AHEAD:
            self._transport.resume_reading()
        if self._unread:
            self._read()

    def _read(self) -> None:
        """Take the next request, as far as it is there."""
        late = self._head is not None
        head = self._head or self._begin()
        if head is not None and len(self._data) >= head.ends:
            self._submit(head, late=late)
        elif head is not None:
            self._transport.resume_reading()

    def _begin(self) -> _Head | None:
        """Read a head; None where it is not all there, or was refused, or is not for this way."""
        if not self._is_whole():
            if not self._may_become_ours():
                self._go_general()
            return None
        request = read_request(self._data, self._at)
        headers = {} if request is None else dict(request.headers)
        if request is None or not self._is_plain(request, headers):
            self._go_general()
            return None
        end = request.end + int(headers[b"content-length"])
        own_id = request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        try:
            key = key_of(authorization, self._service, "publish")
        except TidingsError as error:
            if len(self._data) < end:
                self._go_general()  # which refuses it as well, and knows what to do with the body
            else:
                self._at = end
                self._refuse(request.target, own_id, error)
            return None
        once = _once(headers)
        self._head = _Head(
            request.target, authorization, key, request.end, end, own_id, once, request.headers
        )
        return self._head

    def _is_whole(self) -> bool:
        """Tell whether a head is all there; what was searched for its end before is not searched again."""
        begin = self._at + max(0, self._searched - 3)
        if self._data.find(b"\r\n\r\n", begin) < 0:
            self._searched = self._unread
            return False
        self._searched = 0
        return True

    def _may_become_ours(self) -> bool:
        """Tell whether this may be the first part of a head that is for this way."""
        return self._data.startswith(b"POST /v1/events", self._at) and self._unread < MAX_HEAD

    def _is_plain(self, request: Request, headers: Mapping[bytes, bytes]) -> bool:
        """Tell whether nothing about a request needs the routes."""
        length = headers.get(b"content-length", b"")
        return (
            is_ours(request)
            and len(headers) == len(request.headers)
            and _ELSEWHERE.isdisjoint(headers)
            and not headers.get(b"content-type", b"").lower().startswith(b"application/cloudevents")
            and headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
            and length.isdigit()
            and len(length) < 16
            and int(length) <= self._service.settings.max_body
        )

    def _go_general(self) -> None:
        self._leave()
        self._transport.resume_reading()
        protocol = self._general()
        protocol.connection_made(self._transport)
        self._transport.set_protocol(protocol)
        protocol.data_received(self._data[self._at :])

    def _submit(self, head: _Head, *, late: bool) -> None:
        """Append what a request asks for; where its body came ``late`` its key may be dead by now."""
        body = self._data[head.begins : head.ends]
        self._at, self._head, self._busy = head.ends, None, True
        if not self._unread:
            self._data, self._at = b"", 0  # it may be large, and the next request far off
        service = self._service
        try:
            key = key_of(head.authorization, service, "publish") if late else head.key
            post = read_post(head.path, body, key, service.rules, time(), head.once)
            if standings := service.limits.charge_key(key, post.units, len(post.ephemeral)):
                head = head._replace(standings=standings)
            future = submit(service, post)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is answered
            self._failed(head, error)
            return
        if future is None:
            self._accept(head, post, [])
        else:
            future.add_done_callback(partial(self._committed, head, post))

    # Answers

    def _committed(self, head: _Head, post: Post, future: "asyncio.Future[list[Outcome]]") -> None:
        try:
            outcomes = future.result()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is answered
            self._failed(head, error)
            return
        if any(map(has_original, outcomes)):
            task = self._loop.create_task(self._accept_with_originals(head, post, outcomes))
            self._state.tasks.add(task)
            task.add_done_callback(self._state.tasks.discard)
        else:
            self._accept(head, post, outcomes)

    async def _accept_with_originals(self, head: _Head, post: Post, outcomes: list[Outcome]) -> None:
        try:
            originals = await originals_of(self._service.database, outcomes)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is answered
            self._failed(head, error)
        else:
            self._accept(head, post, outcomes, originals)

    def _accept(
        self, head: _Head, post: Post, outcomes: list[Outcome], originals: Iterable[list[Original]] = ()
    ) -> None:
        try:
            pass_on(self._service, post, outcomes)
            told = answer(post, outcomes, originals)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is answered
            self._failed(head, error)
            return
        extra = [*_told(head), (b"idempotent-replayed", b"true")] if told.replayed else _told(head)
        self._write(head.path, head.request_id, told.status, b"application/json", told.body, extra)

    def _failed(self, head: _Head, error: BaseException) -> None:
        if not isinstance(error, TidingsError):
            extra = about(head.request_id, head.headers, head.path)
            log.error("a request failed", exc_info=error, extra=extra)
            error = TidingsError("internal error")
        self._refuse(head.path, head.request_id, error, *_told(head))

    def _refuse(self, path: str, own_id: str, error: TidingsError, *told: Header) -> None:
        self._service.metrics.refusals.labels(error.code).inc()
        extra = [*told, *_encoded(problem_headers(error))]
        kind, body = CONTENT_TYPE.encode(), problem_body(error, own_id)
        self._write(path, own_id, status_of(error), kind, body, extra)

    def _write(
        self, path: str, own_id: str, status: int, kind: bytes, body: bytes, extra: Iterable[Header]
    ) -> None:
        """Write a response, and go on with the next request."""
        self._service.metrics.count_request("POST", path, status)
        self._busy = False
        if self._transport.is_closing():
            return
        headers = [*self._state.default_headers, (b"x-request-id", own_id.encode()), *extra]
        if self._leaving:
            headers.append((b"connection", b"close"))
        self._transport.write(response(status, kind, body, headers))
        self._used_at = self._loop.time()
        if self._leaving:
            self._close()
        elif (
            self._unread or not self._transport.is_reading()
        ):  # in a step of its own: thousands may be waiting
            self._next = self._loop.call_soon(self._read_on)


def is_ours(request: Request) -> bool:
    """Tell whether a request is for the short way, as far as its first line says."""
    return request.method == "POST" and request.target in PATHS


def _once(headers: Mapping[bytes, bytes]) -> Mapping[str, str]:
    key = headers.get(b"idempotency-key")
    return {} if key is None else {"idempotency-key": key.decode("latin-1")}


def _told(head: _Head) -> list[Header]:
    return _encoded(ratelimit_headers(head.standings)) if head.standings else []


def _encoded(headers: Mapping[str, str]) -> list[Header]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
