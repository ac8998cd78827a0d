"""For admins: API keys."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from service.api.access import Acting, Admin, KeyFirst, Scope
from service.api.admin import CLOSED_WITHIN, Id
from service.api.fields import PLAIN, WHOLE, Instant, Number, Pattern, Whole
from service.api.lists import After, Limit, Page, listed
from service.api.service import InService
from service.auth.keys import generate
from service.domain.addresses import Patterns
from service.domain.errors import NotFound
from service.domain.limits import limit_of
from service.store import keys

router = APIRouter(tags=["admin"], route_class=KeyFirst)

DAY: Final = 86_400


class KeyIn(BaseModel):
    """A new API key."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"allOf": [
        {
            "if": {"properties": {"scopes": {"contains": {"const": "admin"}}}},
            "then": {"properties": {"addresses": {"type": "null"}}},
        },
        {
            "if": {"required": ["burst"], "properties": {"burst": {"type": "integer"}}},
            "then": {"required": ["rate"], "properties": {"rate": {"type": "number"}}},
        },
    ]})  # fmt: skip

    name: str = Field(min_length=1, max_length=128, pattern=PLAIN)
    scopes: list[Scope] = Field(min_length=1)
    addresses: list[Pattern] | None = Field(
        default=None, max_length=100, description="Patterns of what it may reach; default: any"
    )
    expires_at: Instant | None = None
    rate: Annotated[Number, Field(ge=0.001, le=1_000_000)] | None = Field(
        default=None, description="Events a second; default: `TIDINGS_KEY_RATE`"
    )
    burst: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None = Field(
        default=None, description="Events at once; default: a second's, and at least 1,000"
    )
    quota: Annotated[int, Field(ge=1, le=2**53), WHOLE] | None = Field(
        default=None, description="Events a day (UTC); default: any"
    )

    @field_validator("expires_at")
    @classmethod
    def _in_time(cls, value: datetime | None) -> datetime | None:
        if value is not None and not 1970 <= value.year < 9999:  # the rest is infinite to a driver
            raise ValueError("must be in a year from 1970 to 9998")
        return value

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if "admin" in self.scopes and self.addresses is not None:
            raise ValueError("a key with the scope admin cannot be limited to addresses")
        if self.burst is not None and self.rate is None:
            raise ValueError("burst goes with rate")
        return self


class KeyOut(BaseModel):
    """A new API key. `key` is shown this once and kept nowhere."""

    id: str
    key: str


class RotationIn(BaseModel):
    """How a key gets another secret."""

    model_config = ConfigDict(extra="forbid")

    overlap: Whole = Field(
        default=DAY, ge=0, le=30 * DAY, description="Seconds for which the former secret stays good"
    )


class RotatedOut(KeyOut):
    """A key with another secret. The one that it had is good until `former_until`, if at all."""

    former_until: datetime | None


class Key(BaseModel):
    """An API key without its secrets; the former one is good until `former_until`, if at all."""

    id: str
    name: str
    scopes: list[Scope]
    addresses: list[Pattern] | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    former_until: datetime | None
    rate: float | None
    burst: int | None
    quota: int | None


@router.post("/v1/keys", operation_id="createKey", status_code=201)
async def create(order: KeyIn, by: Acting, service: InService) -> KeyOut:
    """Make an API key."""
    patterns = None if order.addresses is None else list(Patterns(order.addresses))
    made = generate()
    async with service.database.connection() as connection:
        position = await keys.create(
            connection, service.follower.seen, by, id=made.id, name=order.name,
            secret_hash=made.secret_hash, scopes=sorted(set(order.scopes)), addresses=patterns,
            expires_at=order.expires_at, limit=limit_of(order.rate, order.burst), quota=order.quota,
        )  # fmt: skip
    await service.courier.applied(position, CLOSED_WITHIN)
    return KeyOut(id=made.id, key=made.presented)


@router.get("/v1/keys", operation_id="listKeys")
async def list_(_: Admin, service: InService, after: After = "", limit: Limit = 100) -> Page[Key]:
    """List the API keys, without their secrets."""
    rows = await keys.list_keys(service.database, after, limit + 1)
    used = service.keyring.last_used
    return listed(rows, limit, lambda row: _key(row, used.get(row["id"])), lambda row: row["id"])


def _key(row: Any, used: float | None) -> dict[str, Any]:
    """Show a key, with its last use: of what is written down and what is known here only, the later one."""
    shown = dict(row)
    here = None if used is None else datetime.fromtimestamp(used, UTC)
    shown["last_used_at"] = max(filter(None, (shown["last_used_at"], here)), default=None)
    return shown


@router.post("/v1/keys/{id}/rotate", operation_id="rotateKey")
async def rotate(
    id: Id,  # noqa: A002 - the field's name
    by: Acting,
    service: InService,
    order: Annotated[RotationIn, Body(default_factory=RotationIn)],
) -> RotatedOut:
    """Give a key another secret. The one that it has stays good for a while, one before that does not."""
    made = generate(id)
    async with service.database.connection() as connection:
        rotated = await keys.rotate(
            connection, service.follower.seen, by, id, secret_hash=made.secret_hash, overlap=order.overlap
        )
    if rotated is None:
        raise NotFound("there is no key of this id")
    await service.courier.applied(rotated.position, CLOSED_WITHIN)
    return RotatedOut(id=id, key=made.presented, former_until=rotated.former_until)


@router.delete("/v1/keys/{id}", operation_id="deleteKey", status_code=204)
async def delete(id: Id, by: Acting, service: InService) -> None:  # noqa: A002
    """Delete an API key; it is refused from then on."""
    async with service.database.connection() as connection:
        position = await keys.delete(connection, service.follower.seen, by, id)
    if position is None:
        raise NotFound("there is no key of this id")
    await service.courier.applied(position, CLOSED_WITHIN)
