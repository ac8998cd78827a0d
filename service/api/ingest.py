"""How events come in: what is asked of a producer's request, and what it is answered.

The same for whoever reads the request: ``service.api.intake``, the short way in, or the routes in
``service.api.events``.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final

import msgspec

from service.auth.keys import ApiKey
from service.domain.addresses import check_address, check_text, check_user
from service.domain.errors import Invalid
from service.domain.events import Draft, Outcome, Unit
from service.domain.payload import check_data, decode, utf8
from service.store import log as store
from service.store.database import Database

MAX_ADDRESSES: Final = 1_000
MAX_EVENTS: Final = 1_000
MAX_EXCLUDED: Final = 100


class EventIn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An event as a producer sends it."""

    to: str | list[str]
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    id: str | None = None
    exclude: list[str] = []


class BatchIn(msgspec.Struct, forbid_unknown_fields=True):
    """Events that are accepted together or not at all."""

    events: list[EventIn]


class Placed(msgspec.Struct, gc=False):
    """Where an event stands in the log."""

    position: int
    to: str
    id: str


class Answer(msgspec.Struct):
    """What a producer is told, once all of it is committed."""

    events: list[Placed]


_decode_event = msgspec.json.Decoder(EventIn).decode
_decode_batch = msgspec.json.Decoder(BatchIn).decode
_encode = msgspec.json.Encoder().encode

Read = Callable[[bytes, ApiKey, int], list[Unit]]
"""Reads a body for a key: ``(body, key, max_data)``; raises what is wrong with it."""


def read_event(body: bytes, key: ApiKey, max_data: int) -> list[Unit]:
    """Return what ``POST /v1/events`` asks to append."""
    return [_unit(decode(_decode_event, utf8(body)), key, max_data)]


def read_batch(body: bytes, key: ApiKey, max_data: int) -> list[Unit]:
    """Return what ``POST /v1/events/batch`` asks to append, in its order."""
    events = decode(_decode_batch, utf8(body)).events
    if not 1 <= len(events) <= MAX_EVENTS:
        raise Invalid(f"1 to {MAX_EVENTS} events", "#/events")
    units = [_nth(number, event, key, max_data) for number, event in enumerate(events)]
    ids = [event.id for event in events if event.id is not None]
    if len(set(ids)) < len(ids):
        raise Invalid("an id stands in the batch twice", "#/events")
    return list(_joined(units))


READERS: Final[dict[str, Read]] = {"/v1/events": read_event, "/v1/events/batch": read_batch}
"""By path."""


def _nth(number: int, event: EventIn, key: ApiKey, max_data: int) -> Unit:
    try:
        return _unit(event, key, max_data)
    except Invalid as error:
        error.pointer = f"#/events/{number}{(error.pointer or '#')[1:]}"
        raise


def _unit(event: EventIn, key: ApiKey, max_data: int) -> Unit:
    """Check an event, and the key's right to send it."""
    to = event.to
    if isinstance(to, str):
        addresses = [check_address(to, "#/to")]
    elif 1 <= len(to) <= MAX_ADDRESSES:
        addresses = [check_address(each, f"#/to/{n}") for n, each in enumerate(dict.fromkeys(to))]
    else:
        raise Invalid(f"1 to {MAX_ADDRESSES} addresses", "#/to")
    for address in addresses:
        key.reach(address)
    check_text(event.type, 128, "#/type")
    if event.id is not None:
        check_text(event.id, 255, "#/id")
    if len(event.exclude) > MAX_EXCLUDED:
        raise Invalid(f"at most {MAX_EXCLUDED} users", "#/exclude")
    exclude = tuple([check_user(user, f"#/exclude/{n}") for n, user in enumerate(event.exclude)])
    data = check_data(event.data, max_data, "#/data")
    drafts = [
        Draft(address, event.type, data, lead, event.id, None, exclude)
        for lead, address in enumerate(addresses)
    ]
    return Unit(drafts, f"key:{key.id}", None if event.id is None else f"id:{event.id}")


def _joined(units: Sequence[Unit]) -> Iterator[Unit]:
    """Join neighbours without a key: only what may have been accepted before has to stand alone."""
    for key, run in groupby(units, attrgetter("key")):
        if key is None:
            drafts = [draft for unit in run for draft in unit.drafts]
            yield Unit(drafts, units[0].producer)
        else:
            yield from run


def answer(units: Sequence[Unit], outcomes: Sequence[Outcome]) -> bytes:
    """Return the JSON that tells where everything stands; nothing of it had been accepted before."""
    return _encode(
        Answer([placed for each in zip(units, outcomes, strict=True) for placed in _placed(*each)])
    )


async def answer_with_originals(
    database: Database, units: Sequence[Unit], outcomes: Sequence[Outcome]
) -> bytes:
    """Do the same where some had been: what counts is what was accepted then, and to whom it went."""
    async with database.connection() as connection:
        originals = iter(await store.positions(connection, [o for o in outcomes if o.replayed]))
    events: list[Placed] = []
    for unit, outcome in zip(units, outcomes, strict=True):
        if outcome.replayed:
            events += [Placed(position, to, str(unit.drafts[0].id)) for position, to in next(originals)]
        else:
            events += _placed(unit, outcome)
    return _encode(Answer(events))


def _placed(unit: Unit, outcome: Outcome) -> list[Placed]:
    return [
        Placed(position, draft.address, draft.id or str(position - draft.lead))
        for position, draft in enumerate(unit.drafts, outcome.first)
    ]
