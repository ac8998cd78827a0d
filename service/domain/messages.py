"""What instances tell each other besides the log, and how it travels: small, lossy, sealed.

An envelope carries how far the log reaches, what was just appended where it fits, and messages for
who is connected elsewhere. Its seal proves that it comes from an instance of the same log: other
roles may notify on a database's channels too, and other programs publish in a Redis.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from hmac import compare_digest
from itertools import chain, repeat
from typing import Final

import msgspec

from service.domain.errors import TooLarge
from service.domain.events import Entry, Group
from service.domain.presence import Change

MAX_MESSAGE: Final = 4096
"""Bytes of JSON that one message may have: it has to fit into a NOTIFY with its envelope."""
OVERHEAD: Final = 256
"""Bytes of a sealed envelope besides what it carries, at most."""
_SEAL: Final = 32  # hexadecimal digits


class Message(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True, gc=False):
    """What may be told; it may be lost."""


class Ephemeral(Message, frozen=True, tag="ephemeral", gc=False):
    """An event that is not stored, for who is live at these addresses.

    ``exclude`` has users, and users with one of their devices behind a line feed.
    """

    addresses: Sequence[str]
    type: str
    data: msgspec.Raw
    time: str
    id: str | None = None
    sender: str | None = None
    exclude: tuple[str, ...] = ()

    def check_size(self) -> None:
        """Raise TooLarge unless it can be told, address by address if need be."""
        longest = max(self.addresses, key=lambda address: len(_json(address)))
        if len(written(msgspec.structs.replace(self, addresses=[longest]))) > MAX_MESSAGE:
            raise TooLarge(
                f"an ephemeral event may have {MAX_MESSAGE} bytes, its address and exclude included", "#/data"
            )

    def parts(self) -> "Iterator[Ephemeral]":
        """Return messages that fit, each for some of the addresses."""
        if len(written(self)) <= MAX_MESSAGE:
            yield self
            return
        middle = len(self.addresses) // 2
        for some in (self.addresses[:middle], self.addresses[middle:]):
            yield from msgspec.structs.replace(self, addresses=some).parts()


class Closed(Message, frozen=True, tag="closed", gc=False):
    """How many connections an instance closed by the order about ``subject``."""

    subject: str
    instance: str
    count: int


class Presence(Message, frozen=True, tag="presence", gc=False):
    """What has changed in who is connected, for those who watch."""

    changes: Sequence[Change]

    def parts(self) -> "Iterator[Presence]":
        """Return messages that fit, each with some of the changes; one change always does."""
        if len(written(self)) <= MAX_MESSAGE:
            yield self
            return
        middle = len(self.changes) // 2
        for some in (self.changes[:middle], self.changes[middle:]):
            yield from Presence(some).parts()


AnyMessage = Ephemeral | Closed | Presence

_Row = tuple[
    int, str, str, str, str, str, int, str | None, str | None, tuple[str, ...], float | None, str | None
]


class _Appended(msgspec.Struct, frozen=True, array_like=True, gc=False):
    after: int
    last: int
    entries: Sequence[_Row]


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one instance tells all the others at once.

    ``head`` is how far its log reached, under ``lineage``: the log's history, which a failover turns.
    """

    sender: str
    lineage: int
    head: int
    appended: Sequence[msgspec.Raw] = ()
    messages: Sequence[msgspec.Raw] = ()


_json = msgspec.json.Encoder().encode
_envelope = msgspec.json.Decoder(Envelope).decode
_appended = msgspec.json.Decoder(_Appended).decode
_message = msgspec.json.Decoder(AnyMessage).decode


def packed(group: Group) -> bytes:
    """Return a group as an envelope carries it."""
    rows = [(
        e.position, e.kind, e.address, e.type, e.data, e.time, e.lead, e.id, e.sender, e.exclude,
        e.expires_at, e.collapse_key,
    ) for e in group.entries]  # fmt: skip
    return _json(_Appended(group.after, group.last, rows))


def groups_of(envelope: Envelope) -> Iterator[Group]:
    """Return the groups that an envelope carries; raises msgspec's DecodeError."""
    for each in envelope.appended:
        carried = _appended(each)
        yield Group(carried.after, carried.last, [Entry(*row) for row in carried.entries])  # type: ignore[arg-type]


def written(message: Message) -> bytes:
    """Return a message as an envelope carries it."""
    return _json(message)


def messages_of(envelope: Envelope) -> Iterator[AnyMessage]:
    """Return the messages that an envelope carries, but those that only newer versions know."""
    for each in envelope.messages:
        try:
            yield _message(each)
        except msgspec.DecodeError:
            continue


def envelopes(
    sender: str, lineage: int, head: int, appended: Iterable[bytes], messages: Iterable[bytes], fits: int
) -> Iterator[Envelope]:
    """Put things into envelopes of at most ``fits`` bytes each, in order; there is at least one.

    Each thing has to fit into one by itself.
    """
    groups: list[msgspec.Raw] = []
    told: list[msgspec.Raw] = []
    room = fits
    for into, part in chain(zip(repeat(groups), appended), zip(repeat(told), messages)):
        if room < len(part) and (groups or told):
            yield Envelope(sender, lineage, head, tuple(groups), tuple(told))
            groups.clear()
            told.clear()
            room = fits
        into.append(msgspec.Raw(part))
        room -= len(part) + 1
    yield Envelope(sender, lineage, head, tuple(groups), tuple(told))


def channel_of(identity: str, key: bytes) -> str:
    """Return the name of a log's channel, which nobody knows who has not the key."""
    return _seal(identity.encode(), key)


def sealed(envelope: Envelope, key: bytes) -> str:
    """Return an envelope as text that only who has the key can have written (RFC 7693 §2.9)."""
    body = _json(envelope)
    return _seal(body, key) + body.decode()


def opened(text: str, key: bytes) -> Envelope | None:
    """Return the envelope, or None where the seal is broken or it cannot be read."""
    body = text[_SEAL:].encode()
    if not compare_digest(text[:_SEAL].encode(), _seal(body, key).encode()):
        return None
    try:
        return _envelope(body)
    except msgspec.DecodeError:
        return None


def _seal(body: bytes, key: bytes) -> str:
    return blake2b(body, digest_size=_SEAL // 2, key=key).hexdigest()
