"""Around every request: its id, where its caller stands with the limits, and a count of how it ended."""

import logging
from random import getrandbits
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

from service.domain.errors import TidingsError
from service.domain.limits import ratelimit_headers
from service.domain.problems import CONTENT_TYPE, problem_body
from service.domain.request import Headers as RequestHeaders
from service.domain.request import is_sound_id
from service.observe.requests import Asked, current

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("tidings.api")


def request_id(given: str) -> str:
    """Return the id that a caller gave its request, if it is a sound one, else a new one."""
    if is_sound_id(given):
        return given
    return f"{getrandbits(128):032x}"  # no secret; a tenth of what a UUID costs


def about(own_id: str, headers: RequestHeaders, path: str) -> dict[str, str]:
    """Return what a log line says of a request that no task of its own carries out."""
    return {"path": path, **Asked(own_id, headers).fields()}


class RequestId:
    """Gives each request an id, the caller's own where it sent a sound one, and counts it."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Run the application with the id in its state and on its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own_id = request_id(Headers(scope=scope).get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = own_id
        current.set(Asked(own_id, scope["headers"]))  # the task is this request's own, and ends with it

        started = False

        async def send_with_id(message: "Message") -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = own_id
                headers.update(ratelimit_headers(scope["state"].get("standings", ())))
                _count(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("a request failed", extra={"path": scope["path"]})
            if started:
                raise
            body = problem_body(TidingsError("internal error"), own_id)
            await Response(body, 500, media_type=CONTENT_TYPE)(scope, receive, send_with_id)


def _count(scope: "Scope", status: int) -> None:
    service = scope["state"].get("service")
    if service is not None:
        template = getattr(scope.get("route"), "path", None)
        service.metrics.count_request(scope["method"], template, status)
