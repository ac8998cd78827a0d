"""A backend with Tidings beside it: it makes tokens for its users, and sends them events.

    export TIDINGS_URL=http://127.0.0.1:8000 TIDINGS_KEY=tk_…   # a key with the scopes publish and tokens
    uvicorn --app-dir examples/fastapi app:app --port 8080

    curl http://127.0.0.1:8080/tidings-token -H 'X-User: alice'
    curl -X POST http://127.0.0.1:8080/orders/17/ship -H 'X-User: bob'

Needs `pip install fastapi uvicorn httpx tidings-client`.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, Header, Request

from tidings_client import Publisher

URL, KEY = os.environ["TIDINGS_URL"], os.environ["TIDINGS_KEY"]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Keep the connections to Tidings for as long as the backend runs."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        httpx.AsyncClient(base_url=URL, headers=headers) as tidings,
        Publisher(URL, KEY) as publisher,
    ):
        yield {"tidings": tidings, "publisher": publisher}


app = FastAPI(lifespan=lifespan)


def signed_in(x_user: Annotated[str, Header()]) -> str:
    """Return who is asking. Yours looks at a session; never believe a header that anybody can send."""
    return x_user


User = Annotated[str, Depends(signed_in)]


@app.get("/tidings-token")
async def tidings_token(request: Request, user: User) -> dict[str, Any]:
    """Give the page a token for its user: whatever the page may do stands in it."""
    claims = {"user": user, "rooms": ["orders"], "join": ["orders"], "name": user.title(), "ttl": 600}
    answer = await request.state.tidings.post("/v1/tokens", json=claims)
    answer.raise_for_status()
    return answer.json()


@app.post("/orders/{order}/ship")
async def ship(request: Request, order: int, user: User) -> dict[str, Any]:
    """Ship an order, and tell everybody who looks at orders.

    The id comes from what has happened: however often this is called, they are told once.
    """
    await request.state.publisher.send(
        "room:orders", "order.shipped", {"order": order, "by": user}, id=f"order-{order}-shipped"
    )
    return {"shipped": order}
