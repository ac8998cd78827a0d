"""How events come in: what is asked of a producer's request, and what it is answered.

The same for whoever reads the request: ``service.api.intake``, the short way in, or the routes in
``service.api.events``.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from service.api.service import Service
from service.auth.keys import ApiKey
from service.domain import cloudevents
from service.domain.errors import Invalid, TidingsError, Unavailable
from service.domain.events import Once, Outcome, Unit
from service.domain.frames import ephemeral_frame
from service.domain.payload import decode, utf8
from service.domain.problems import problem_body, status_of
from service.domain.publication import (
    BatchIn,
    Ephemeral,
    EventIn,
    Item,
    LooseBatchIn,
    Producer,
    Rules,
    checked,
    checked_batch,
)  # fmt: skip
from service.domain.websocket import text_frame
from service.store import log as store
from service.store.database import Database
from service.store.log import timestamp
from service.stream.hub import Hub

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
_replayed = attrgetter("replayed")


class Post(NamedTuple):
    """What a producer's request asks for, in its order; with ``each`` some of it may be refused."""

    items: Sequence[Item]
    once: Once | None
    each: bool = False
    validate_only: bool = False

    @property
    def units(self) -> list[Unit]:
        """Return what is to be appended."""
        return [] if self.validate_only else [item for item in self.items if isinstance(item, Unit)]

    @property
    def ephemeral(self) -> list[Ephemeral]:
        """Return what is only to be passed on."""
        return [] if self.validate_only else [item for item in self.items if isinstance(item, Ephemeral)]


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
    reading = _Reading(Producer(f"key:{key.id}", key.reach), rules, now)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == cloudevents.BATCHED:
        post = Post(reading.cloud_batch(body), None)
    elif kind == cloudevents.STRUCTURED:
        post = Post([reading.cloud(cloudevents.structured(body))], None)
    elif cloudevents.SPECVERSION in headers:
        post = Post([reading.cloud(cloudevents.binary(headers, body))], None)
    elif path == BATCH:
        post = reading.batch(body)
    else:
        post = Post([reading.event(decode(_decode_event, utf8(body)))], None)
    given = headers.get("idempotency-key")
    if given is None or not post.units:
        return post
    return post._replace(once=_once(key, path, given, body, headers))


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
    return Once(f"key:{key.id}", f"POST {path} {name}", fingerprint.digest())


class _Reading:
    """Reads events for one producer."""

    def __init__(self, producer: Producer, rules: Rules, now: float) -> None:
        self._producer = producer
        self._rules = rules
        self._now = now

    def event(self, event: EventIn) -> Unit | Ephemeral:
        key = None if event.id is None else f"id:{event.id}"
        return checked(event, self._producer, self._rules, self._now, key)

    def batch(self, body: bytes) -> Post:
        text = utf8(body)
        loose = decode(_decode_loose_batch, text) if '"partial"' in text else None
        if loose is not None and loose.mode == "partial":
            items = checked_batch(loose.events, self._loose, partial=True)
            return Post(items, None, each=True, validate_only=loose.validate_only)
        batch = decode(_decode_batch, text)
        items = checked_batch(batch.events, self.event, partial=False)
        return Post(items, None, validate_only=batch.validate_only)

    def _loose(self, raw: msgspec.Raw) -> Unit | Ephemeral:
        return self.event(decode(_decode_event, bytes(raw).decode()))

    def cloud(self, given: cloudevents.CloudEvent) -> Unit | Ephemeral:
        try:
            return checked(given.event, self._producer, self._rules, self._now, given.key)
        except Invalid as error:
            error.pointer = cloudevents.pointer(error.pointer)
            raise

    def cloud_batch(self, body: bytes) -> Sequence[Item]:
        try:
            return checked_batch(
                cloudevents.batched(body), lambda raw: self.cloud(cloudevents.one(raw)), partial=False
            )
        except Invalid as error:  # the batch is the array itself
            error.pointer = error.pointer and error.pointer.replace("#/events", "#", 1)
            raise


def submit(service: Service, post: Post) -> "Future[list[Outcome]] | None":
    """Begin to carry out a request; None where nothing of it is stored."""
    if post.ephemeral and not service.follower.trusted:
        raise Unavailable("the log cannot be read just now, nor what it revokes")
    units = post.units
    return service.appender.submit(units, post.once) if units else None


def pass_on(hub: Hub, post: Post, outcomes: Sequence[Outcome]) -> None:
    """Send what is ephemeral to who is connected, unless the request was a repeat."""
    if any(outcome.repeated for outcome in outcomes):
        return
    time = timestamp(datetime.now(UTC))
    for event in post.ephemeral:
        for to in event.addresses:
            data = ephemeral_frame(to, event.type, event.data, time, event.id, None)
            hub.pass_on(to, text_frame(data), event.exclude)


def has_original(outcome: Outcome) -> bool:
    """Tell whether an event was accepted before by its id: what counts is what was accepted then."""
    return outcome.replayed and not outcome.repeated


async def originals_of(database: Database, outcomes: Sequence[Outcome]) -> list[list[store.Original]]:
    """Return what those events became that had been accepted before, and to whom they went."""
    async with database.connection() as connection:
        return await store.originals(connection, [o for o in outcomes if has_original(o)])


def answer(
    post: Post, outcomes: Sequence[Outcome], originals: Iterable[Sequence[store.Original]] = ()
) -> Answer:
    """Return what tells where everything stands."""
    left, found = iter(outcomes), iter(originals)
    results = [_result(item, left, found, stored=not post.validate_only) for item in post.items]
    replayed = any(map(_replayed, outcomes))
    accepted = 200 if post.validate_only else 202
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
