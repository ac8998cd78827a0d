"""Client tokens for backends that have no identity provider."""

from collections.abc import Mapping
from time import time
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from service.api.access import KeyFirst, TokenIssuer
from service.api.fields import Flag, Pattern, RoomName, UserId, Whole
from service.api.problems import refused_with
from service.api.service import InService, Service
from service.domain.addresses import check_pattern, check_room, check_user
from service.domain.claims import LEEWAY
from service.domain.errors import Conflict, Invalid

router = APIRouter(tags=["tokens"], route_class=KeyFirst)


class TokenIn(BaseModel):
    """What the token shall grant."""

    model_config = ConfigDict(extra="forbid")

    user: UserId
    ttl: Whole = Field(
        default=3600, ge=1, description="Seconds; at most 30 days", json_schema_extra={"maximum": 30 * 86400}
    )
    rooms: list[Pattern] = Field(default=[], max_length=1000, description="Patterns of room names")
    join: list[RoomName] = Field(default=[], max_length=1000)
    publish: list[Pattern] = Field(default=[], max_length=1000, description="Patterns of addresses")
    presence: Flag = False
    name: str | None = Field(default=None, max_length=256)
    jti: str | None = Field(default=None, min_length=1, max_length=256)


class TokenOut(BaseModel):
    """A signed token; `expires_at` in seconds since the epoch."""

    token: str
    expires_at: int


@router.post("/v1/tokens", operation_id="mintToken", status_code=201, responses=refused_with(Conflict))
async def mint(order: TokenIn, key: TokenIssuer, service: InService) -> TokenOut:
    """Sign a client token."""
    check_user(order.user, "#/user")
    for field, check in (
        ("rooms", check_pattern),
        ("publish", check_pattern),
        ("join", check_room),
    ):
        for index, value in enumerate(getattr(order, field)):
            check(value, f"#/{field}/{index}")
    key.may_grant(_reach(order))
    if order.ttl > service.settings.token_max_age:
        raise Invalid(f"at most {service.settings.token_max_age:.0f} s", "#/ttl")
    grants = order.model_dump(exclude={"user", "ttl"}, exclude_defaults=True)
    return signed(service, order.user, order.ttl, grants)


def signed(service: Service, user: str, ttl: int, grants: Mapping[str, Any]) -> TokenOut:
    """Return a token that no revocation of before is against, good for ``ttl`` seconds; raises Conflict."""
    if service.minter is None:
        raise Conflict("this service has no key to sign with")
    # A token of the second in which the user was revoked would be refused with the others.
    revoked = service.control.revocations.issued_before(user)
    issued_at = max(int(time()), -1 if revoked is None else revoked + 1)
    if issued_at > time() + LEEWAY:
        raise Conflict("a revocation is in force for every token of this user issued before a later time")
    claims = {"sub": user, "iat": issued_at, "exp": issued_at + ttl, **grants}
    return TokenOut(token=service.minter.mint(claims), expires_at=issued_at + ttl)


def _reach(order: TokenIn) -> list[str]:
    """Return what the token's user could receive from or publish to; presence shows every user."""
    rooms = [f"room:{room}" for room in (*order.rooms, *order.join)]
    return [f"user:{order.user}", *rooms, *order.publish, *(["user:*"] if order.presence else [])]
