"""The application: its routes, and a lifespan in which its parts live."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.api import (
    acks,
    admin,
    audit,
    devices,
    events,
    history,
    inbox,
    keys,
    operations,
    problems,
    recalls,
    receipts,
    rooms,
    scheduled,
    tokens,
    users,
)  # fmt: skip
from service.api.description import describe
from service.api.middleware import RequestId
from service.settings import Settings, load
from service.web.pages import pages
from service.wiring import running

VERSION: Final = "0.1.0"


def from_environment() -> FastAPI:
    """Return the application with the settings of the environment: uvicorn's factory."""
    return create_app(load())


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its parts are built when its lifespan begins."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with running(settings, VERSION) as parts:
            yield parts

    app = FastAPI(
        title="Tidings",
        version=VERSION,
        lifespan=lifespan,
        openapi_url="/openapi.json" if settings.dev else None,
        docs_url="/docs" if settings.dev else None,
        redoc_url=None,
    )
    # A user's id may have slashes in it: what stands below a user is asked for before the user.
    for part in (
        admin, keys, audit, history, receipts, recalls, scheduled, rooms, inbox, acks, devices, tokens,
        operations, users,
    ):  # fmt: skip
        app.include_router(part.router)
    app.router.routes[:0] = events.ROUTES
    app.router.routes += pages(settings)
    problems.install(app)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=["*"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-Id"],
        expose_headers=[
            "X-Request-Id",
            "Retry-After",
            "Idempotent-Replayed",
            "Link",
            "RateLimit",
            "RateLimit-Policy",
        ],
    )
    app.add_middleware(RequestId)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = describe(app)
    return app.openapi_schema
