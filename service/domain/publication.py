"""An event as a producer sends it: what is checked of it, and what is appended. Pure code."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Annotated, Final, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from service.domain.addresses import check_address, check_text, check_user
from service.domain.errors import Forbidden, Invalid, TidingsError
from service.domain.events import Draft, Unit
from service.domain.frames import timestamp
from service.domain.messages import Ephemeral
from service.domain.payload import check_data

MAX_ADDRESSES: Final = 1_000
MAX_EVENTS: Final = 1_000
MAX_EXCLUDED: Final = 100
MAX_TYPE: Final = 128
MAX_ID: Final = 255
MAX_TTL: Final = 10 * 365 * 86400
"""Seconds."""
MAX_UNDELIVERED_AFTER: Final = 30 * 86400
"""Seconds."""

T = TypeVar("T")
Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class EventIn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An event as a producer sends it; times in seconds."""

    to: str | list[str]
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    id: str | None = None
    exclude: list[str] = []
    ttl: float | None = None
    collapse_key: str | None = None
    deliver_at: Instant | None = None
    ephemeral: bool = False
    undelivered_after: float | None = None
    undelivered_unless: Literal["received", "read"] | None = None

    @property
    def has_options(self) -> bool:
        """Tell whether it asks for more than to be stored and delivered."""
        return (
            self.ttl is not None
            or self.collapse_key is not None
            or self.deliver_at is not None
            or self.ephemeral
            or self.undelivered_after is not None
            or self.undelivered_unless is not None
        )


class BatchIn(msgspec.Struct, forbid_unknown_fields=True):
    """Events that are accepted together or not at all, or with ``partial`` each by itself."""

    events: list[EventIn]
    mode: Literal["atomic", "partial"] = "atomic"
    validate_only: bool = False


class LooseBatchIn(msgspec.Struct, forbid_unknown_fields=True):
    """The same, where the events are not read yet."""

    events: list[msgspec.Raw]
    mode: Literal["atomic", "partial"] = "atomic"
    validate_only: bool = False


class Producer(Protocol):
    """Who sends."""

    @property
    def producer(self) -> str:
        """Return the name under which its keys and ids are its own."""

    def reach(self, address: str) -> None:
        """Raise Forbidden for an address that it may not publish to."""


class Rules(NamedTuple):
    """What an instance takes: bytes of data, how far off in seconds, whether it can call back."""

    max_data: int
    horizon: float
    callbacks: bool


Item = Unit | Ephemeral | TidingsError
"""What one event becomes, or why it does not."""


def checked(
    event: EventIn, producer: Producer, rules: Rules, now: float, key: str | None = None
) -> Unit | Ephemeral:
    """Check an event, and its producer's right to send it.

    ``key`` is under which it is accepted once, by default its own id; ``now`` in seconds since the
    epoch. Raises Invalid with the field's pointer, or Forbidden.
    """
    to = event.to
    if isinstance(to, str):
        addresses = [check_address(to, "#/to")]
    elif 1 <= len(to) <= MAX_ADDRESSES:
        addresses = [check_address(each, f"#/to/{n}") for n, each in enumerate(dict.fromkeys(to))]
    else:
        raise Invalid(f"1 to {MAX_ADDRESSES} addresses", "#/to")
    for address in addresses:
        producer.reach(address)
    check_text(event.type, MAX_TYPE, "#/type")
    if event.id is not None:
        check_text(event.id, MAX_ID, "#/id")
        key = key or f"id:{event.id}"
    if len(event.exclude) > MAX_EXCLUDED:
        raise Invalid(f"at most {MAX_EXCLUDED} users", "#/exclude")
    exclude = tuple([check_user(user, f"#/exclude/{n}") for n, user in enumerate(event.exclude)])
    data = check_data(event.data, rules.max_data, "#/data")
    due_at = None
    if event.has_options:
        if event.ephemeral:
            _check_ephemeral(event)
            passing = Ephemeral(
                addresses,
                event.type,
                msgspec.Raw(data.encode()),
                timestamp(datetime.fromtimestamp(now, UTC)),
                event.id,
                None,
                exclude,
            )
            passing.check_size()
            return passing
        due_at = _check_options(event, addresses, rules, now)
    drafts = [
        Draft(
            address, event.type, data, lead, event.id, None, exclude,
            event.ttl, event.collapse_key, event.undelivered_after, event.undelivered_unless == "read",
        )
        for lead, address in enumerate(addresses)
    ]  # fmt: skip
    return Unit(drafts, producer.producer, key, due_at)


def _check_ephemeral(event: EventIn) -> None:
    kept = ("ttl", "collapse_key", "deliver_at", "undelivered_after", "undelivered_unless")
    for field in kept:
        if getattr(event, field) is not None:
            raise Invalid("an ephemeral event is not stored", f"#/{field}")


def _check_options(event: EventIn, addresses: Sequence[str], rules: Rules, now: float) -> float | None:
    """Check what goes beyond the plain event; return when it is due, if it is put off."""
    if event.ttl is not None:
        _check_seconds(event.ttl, MAX_TTL, "#/ttl")
    if event.collapse_key is not None:
        check_text(event.collapse_key, MAX_ID, "#/collapse_key")
    if event.undelivered_after is not None:
        _check_seconds(event.undelivered_after, MAX_UNDELIVERED_AFTER, "#/undelivered_after")
        if not all(address.startswith("user:") for address in addresses):
            raise Invalid("only an event to users can be undelivered", "#/undelivered_after")
        if not rules.callbacks:
            raise Invalid("this service has no endpoint to call back", "#/undelivered_after")
    elif event.undelivered_unless is not None:
        raise Invalid("goes with undelivered_after", "#/undelivered_unless")
    if event.deliver_at is None:
        return None
    due_at = max(0.0, event.deliver_at.timestamp())  # year 1 may be year 0 in UTC, which cannot be shown
    if due_at > now + rules.horizon:
        raise Invalid(f"must be within {rules.horizon:.0f} s from now", "#/deliver_at")
    return due_at


def _check_seconds(seconds: float, limit: int, pointer: str) -> None:
    if not 0 < seconds <= limit:
        raise Invalid(f"must be more than 0 and at most {limit} seconds", pointer)


def checked_batch(
    events: Sequence[T], check: Callable[[T], Unit | Ephemeral], *, partial: bool
) -> list[Item]:
    """Check the events of a batch: all of them pass, or with ``partial`` each may fail.

    Raises the first refusal with a pointer that begins with the event's.
    """
    if not 1 <= len(events) <= MAX_EVENTS:
        raise Invalid(f"1 to {MAX_EVENTS} events", "#/events")
    items: list[Item] = []
    keys: set[str] = set()
    for number, event in enumerate(events):
        try:
            item = check(event)
            _check_new(item, keys)
        except (Invalid, Forbidden) as error:
            if partial:
                items.append(error)
                continue
            if isinstance(error, Invalid):
                error.pointer = f"#/events/{number}{(error.pointer or '#')[1:]}"
            raise
        items.append(item)
    return items if partial else list(_joined(items))


def _check_new(item: Unit | Ephemeral, keys: set[str]) -> None:
    if isinstance(item, Unit) and item.key is not None:
        if item.key in keys:
            raise Invalid("this id stands in the batch twice", "#/id")
        keys.add(item.key)


def _joined(items: Sequence[Item]) -> Iterator[Item]:
    """Join neighbours that are plain: only what may have been accepted before has to stand alone."""
    for plain, run in groupby(items, lambda i: isinstance(i, Unit) and i.key is None and i.due_at is None):
        if plain:
            units = [item for item in run if isinstance(item, Unit)]
            yield Unit([draft for unit in units for draft in unit.drafts], units[0].producer)
        else:
            yield from run
