"""How events come in: what is asked of a producer's request, and what it is answered.

The same for whoever reads the request: ``service.api.intake``, the short way in, or the routes in
``service.api.events``.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from service.api.service import Service
from service.auth.keys import ApiKey
from service.domain import cloudevents
from service.domain.errors import Invalid, TidingsError, Unavailable
from service.domain.events import Once, Outcome, Unit
from service.domain.frames import timestamp
from service.domain.messages import Ephemeral
from service.domain.payload import decode, utf8
from service.domain.problems import problem_body, status_of
from service.domain.publication import (
    BatchIn,
    EventIn,
    Item,
    LooseBatchIn,
    Rules,
    checked,
    checked_batch,
)  # fmt: skip
from service.store import log as store
from service.store.database import Database

if TYPE_CHECKING:
    from asyncio import Future

EVENTS: Final = "/v1/events"
BATCH: Final = "/v1/events/batch"
PATHS: Final = (EVENTS, BATCH)

MAX_KEY: Final = 255
"""Characters of an ``Idempotency-Key``."""

_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # a string (RFC 8941 §3.3.3)
_decode_event = msgspec.json.Decoder(EventIn).decode
_decode_batch = msgspec.json.Decoder(BatchIn).decode
_decode_loose_batch = msgspec.json.Decoder(LooseBatchIn).decode
_encode = msgspec.json.Encoder().encode


class Post(msgspec.Struct, frozen=True, gc=False):
    """What a producer's request asks for, in its order; with ``each`` some of it may be refused."""

    items: Sequence[Item]
    units: Sequence[Unit] = ()
    """What is to be appended."""
    ephemeral: Sequence[Ephemeral] = ()
    """What is only to be passed on."""
    once: Once | None = None
    each: bool = False


class Placed(msgspec.Struct, gc=False):
    """Where an event stands in the log."""

    position: int
    to: str
    id: str


class PutOff(msgspec.Struct):
    """An event that comes into the log when it is due; ``scheduled`` names it until then."""

    scheduled: str
    to: str
    id: str
    deliver_at: str


class PassedOn(msgspec.Struct):
    """An ephemeral event, or one that was only validated."""

    to: str


class Answer(NamedTuple):
    """What a producer is told, once all of it is committed; ``replayed``: some of it had been before."""

    status: int
    body: bytes
    replayed: bool = False


def read_post(
    path: str, body: bytes, key: ApiKey, rules: Rules, now: float, headers: Mapping[str, str]
) -> Post:
    """Return what a ``POST`` to one of ``PATHS`` asks for; raises what is wrong with it.

    Of ``headers`` only ``idempotency-key``, ``content-type`` and ``ce-*`` count; ``now`` is in seconds
    since the epoch.
    """
    kind = headers.get("content-type", "").lower()
    if kind.startswith(cloudevents.TYPES) or cloudevents.SPECVERSION in headers:
        post = _read_cloud_events(kind, body, headers, partial(_checked_cloud, key, rules, now))
    elif path == BATCH:
        post = _read_batch(body, lambda event: checked(event, key, rules, now))
    else:
        post = _post([checked(decode(_decode_event, utf8(body)), key, rules, now)])
    given = headers.get("idempotency-key")
    if given is None or not post.units:
        return post
    # What was refused of it then, by other settings or too far off, would be missing from the answer.
    judged = bytes([isinstance(item, Unit) for item in post.items]) if post.each else b""
    return msgspec.structs.replace(post, once=_once(key, path, given, body + judged, headers))


def _post(items: Sequence[Item], *, each: bool = False) -> Post:
    units = [item for item in items if isinstance(item, Unit)]
    if len(units) == len(items):
        return Post(items, units, each=each)
    return Post(items, units, [item for item in items if isinstance(item, Ephemeral)], each=each)


def _read_batch(body: bytes, check: Callable[[EventIn], Unit | Ephemeral]) -> Post:
    text = utf8(body)
    loose = decode(_decode_loose_batch, text) if '"partial"' in text else None
    if loose is not None and loose.mode == "partial":
        items = checked_batch(
            loose.events, lambda raw: check(decode(_decode_event, bytes(raw).decode())), partial=True
        )
        return Post(items, each=True) if loose.validate_only else _post(items, each=True)
    batch = decode(_decode_batch, text)
    items = checked_batch(batch.events, check, partial=False)
    return Post(items) if batch.validate_only else _post(items)


CheckCloud = Callable[[cloudevents.CloudEvent], Unit | Ephemeral]


def _read_cloud_events(kind: str, body: bytes, headers: Mapping[str, str], check: CheckCloud) -> Post:
    if kind.startswith(cloudevents.BATCHED):
        return _post(_read_cloud_batch(body, check))
    if kind.startswith(cloudevents.STRUCTURED):
        return _post([check(cloudevents.structured(body))])
    return _post([check(cloudevents.binary(headers, body))])


def _read_cloud_batch(body: bytes, check: CheckCloud) -> Sequence[Item]:
    try:
        return checked_batch(
            cloudevents.batched(body), lambda raw: check(cloudevents.one(raw)), partial=False
        )
    except Invalid as error:  # the batch is the array itself
        error.pointer = error.pointer and error.pointer.replace("#/events", "#", 1)
        raise


def _checked_cloud(key: ApiKey, rules: Rules, now: float, given: cloudevents.CloudEvent) -> Unit | Ephemeral:
    try:
        return checked(given.event, key, rules, now, given.key)
    except Invalid as error:
        error.pointer = cloudevents.pointer(error.pointer)
        raise


def _once(key: ApiKey, path: str, given: str, body: bytes, headers: Mapping[str, str]) -> Once:
    """Return what makes the request one that is carried out once; the key may be a quoted string."""
    quoted = _QUOTED.fullmatch(given)
    name = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else given
    if not 1 <= len(name) <= MAX_KEY or not name.isascii() or not name.isprintable():
        raise Invalid(f"Idempotency-Key: 1 to {MAX_KEY} printable ASCII characters")
    fingerprint = sha256(body)
    for header in sorted(headers):
        if header.startswith("ce-"):
            fingerprint.update(f"\n{header}: {headers[header]}".encode())
    return Once(key.producer, f"POST {path} {name}", fingerprint.digest())


def submit(service: Service, post: Post) -> "Future[list[Outcome]] | None":
    """Begin to carry out a request; None where nothing of it is stored."""
    if post.ephemeral and not service.follower.trusted:
        raise Unavailable("the log cannot be read just now, nor what it revokes")
    if not post.units:
        return None
    outcomes = service.appender.submit(post.units, post.once)
    if any(unit.due_at is not None for unit in post.units):
        outcomes.add_done_callback(lambda _: service.scheduler.wake())
    return outcomes


def pass_on(service: Service, post: Post, outcomes: Sequence[Outcome]) -> None:
    """Send what is ephemeral to who is connected, unless the request was a repeat."""
    if not any(outcome.repeated for outcome in outcomes):
        for event in post.ephemeral:
            service.ephemerals.pass_on(event)


has_original: Final = attrgetter("replayed")
"""Tells whether an event was accepted before by its id: what counts is what was accepted then."""


async def originals_of(database: Database, outcomes: Sequence[Outcome]) -> list[list[store.Original]]:
    """Return what those events became that had been accepted before, and to whom they went."""
    async with database.connection() as connection:
        return await store.originals(connection, [o for o in outcomes if has_original(o)])


def answer(
    post: Post, outcomes: Sequence[Outcome], originals: Iterable[Sequence[store.Original]] = ()
) -> Answer:
    """Return what tells where everything stands."""
    left, found = iter(outcomes), iter(originals)
    stored = bool(post.units or post.ephemeral)
    results = [_result(item, left, found, stored=stored) for item in post.items]
    accepted = 202 if stored else 200
    replayed = any(outcome.replayed or outcome.repeated for outcome in outcomes)
    if post.each:
        return Answer(207, _encode({"results": [_judged(each, accepted) for each in results]}), replayed)
    events = [event for each in results if not isinstance(each, TidingsError) for event in each]
    return Answer(accepted, _encode({"events": events}), replayed)


def _result(
    item: Item, outcomes: Iterator[Outcome], originals: Iterator[Sequence[store.Original]], *, stored: bool
) -> TidingsError | Sequence[Placed | PutOff | PassedOn]:
    if isinstance(item, TidingsError):
        return item
    if isinstance(item, Ephemeral):
        return [PassedOn(address) for address in item.addresses]
    if not stored:
        return [PassedOn(draft.address) for draft in item.drafts]
    outcome = next(outcomes)
    if has_original(outcome):
        event_id = str(item.drafts[0].id)
        return [_original(event_id, original) for original in next(originals)]
    if item.due_at is None:
        return [
            Placed(position, draft.address, draft.id or str(position - draft.lead))
            for position, draft in enumerate(item.drafts, outcome.first)
        ]
    scheduled, at = str(outcome.pending), timestamp(datetime.fromtimestamp(item.due_at, UTC))
    return [PutOff(scheduled, draft.address, draft.id or scheduled, at) for draft in item.drafts]


def _original(event_id: str, original: store.Original) -> Placed | PutOff:
    if original.due_at is None:
        return Placed(original.position, original.address, event_id)
    return PutOff(str(original.position), original.address, event_id, timestamp(original.due_at))


def _judged(result: TidingsError | Sequence[Placed | PutOff | PassedOn], accepted: int) -> dict[str, object]:
    if isinstance(result, TidingsError):
        return {"status": status_of(result), "problem": msgspec.Raw(problem_body(result))}
    return {"status": accepted, "events": result}
