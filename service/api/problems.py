"""Errors on their way out: every refusal is an RFC 9457 problem with the request's id."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.domain.errors import Invalid, Malformed, NotFound, TidingsError
from service.domain.problems import CONTENT_TYPE, problem_body, problem_headers, status_of

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def problem(
    request: Request, error: TidingsError, status: int | None = None, extra: Mapping[str, str] | None = None
) -> Response:
    """Return the response that tells of an error."""
    headers = {**problem_headers(error), **(extra or {})}
    body = problem_body(error, getattr(request.state, "request_id", None), status)
    return Response(body, status or status_of(error), headers, media_type=CONTENT_TYPE)


def refused_with(*kinds: type[TidingsError]) -> dict[int | str, dict[str, Any]]:
    """Return ``responses=`` of a route that has refusals of its own, besides those that follow from rules."""
    return {status_of(kind("")): {"description": kind.__name__} for kind in kinds}


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""

    @app.exception_handler(TidingsError)
    async def refused(request: Request, error: TidingsError) -> Response:
        _count(request, error)
        return problem(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = "#/" + "/".join(str(part) for part in first["loc"][1:])
        kind = Malformed if first["type"] == "json_invalid" else Invalid
        refusal = kind(_sentence(first), where)
        _count(request, refusal)
        return problem(request, refusal)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return problem(request, NotFound("there is nothing at this address"))
        headers = {"Allow": ", ".join(_allowed(request))} if error.status_code == 405 else error.headers
        kind = Malformed if error.status_code == 400 else Invalid
        return problem(request, kind(str(error.detail)), error.status_code, headers)


def _allowed(request: Request) -> list[str]:
    """Return the methods of all routes with this path; the framework names only the first one's."""

    def allowed(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return list(filter(allowed, METHODS))


def _sentence(error: dict[str, Any]) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def _count(request: Request, error: TidingsError) -> None:
    request.state.service.metrics.refusals.labels(error.code).inc()
