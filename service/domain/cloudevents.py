"""CloudEvents 1.0 (https://github.com/cloudevents/spec) as events of ours. Pure code.

``subject`` is the address, ``source`` and ``id`` together are what is accepted once. Of extension
attributes ``ttl``, ``collapsekey``, ``deliverat``, ``ephemeral``, ``undeliveredafter`` and
``undeliveredunless`` mean what our fields of nearly the same names do; others, ``time`` and
``dataschema`` are not passed on.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec

from service.domain.addresses import check_text
from service.domain.errors import Invalid, Malformed
from service.domain.payload import decode, pointer_of, utf8
from service.domain.publication import EventIn

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
TYPES: Final = (STRUCTURED, BATCHED)
SPECVERSION: Final = "ce-specversion"
"""The header that tells the binary mode (HTTP protocol binding §3.1)."""
MAX_SOURCE: Final = 1024

_FIELDS: Final = {
    "ttl": "ttl",
    "collapsekey": "collapse_key",
    "deliverat": "deliver_at",
    "ephemeral": "ephemeral",
    "undeliveredafter": "undelivered_after",
    "undeliveredunless": "undelivered_unless",
}
_ATTRIBUTES: Final = {"to": "subject", **{ours: theirs for theirs, ours in _FIELDS.items()}}
_JSON = re.compile(r"(application|text)/([\w.+-]+\+)?json")
_encode = msgspec.json.Encoder().encode
_decode_value = msgspec.json.Decoder().decode
_decode_any = msgspec.json.Decoder(msgspec.Raw).decode
_decode_envelope = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_batch = msgspec.json.Decoder(list[msgspec.Raw]).decode


class CloudEvent(NamedTuple):
    """What a CloudEvent asks for, and the key under which it is accepted once."""

    event: EventIn
    key: str


def structured(body: bytes) -> CloudEvent:
    """Read one in the structured mode (JSON event format §3)."""
    return one(msgspec.Raw(utf8(body).encode()))


def batched(body: bytes) -> list[msgspec.Raw]:
    """Read a batch (JSON event format §4), each event for ``one``."""
    return decode(_decode_batch, utf8(body))


def one(raw: msgspec.Raw) -> CloudEvent:
    """Read one event of the JSON format."""
    given = decode(_decode_envelope, bytes(raw).decode())
    members = {name: value for name, value in given.items() if bytes(value) != b"null"}  # the same as unset
    data = members.pop("data", None)
    encoded = members.pop("data_base64", None)
    if data is not None and encoded is not None:
        raise Invalid("data and data_base64 exclude each other", "#/data_base64")
    attributes = {name: _attribute(name, value) for name, value in members.items()}
    if encoded is not None:
        data = _from_bytes(_base64(encoded), str(attributes.get("datacontenttype", "")))
    return _cloud_event(attributes, msgspec.Raw(b"null") if data is None else data)


def binary(headers: Mapping[str, str], body: bytes) -> CloudEvent:
    """Read one in the binary mode: attributes in headers, the body is the data (HTTP binding §3.1)."""
    given = [(name[3:], _header(value)) for name, value in headers.items() if name.startswith("ce-")]
    attributes: dict[str, Any] = dict(given)
    if len(attributes) < len(given):
        raise Malformed("an attribute is given twice")
    data = (
        _from_bytes(body, headers.get("content-type", "application/json")) if body else msgspec.Raw(b"null")
    )
    return _cloud_event(attributes, data)


def pointer(ours: str | None) -> str | None:
    """Return where a CloudEvent has the field that a pointer of ours names."""
    before, found, field = (ours or "").rpartition("#/")
    if not found:
        return ours
    first, slash, rest = field.partition("/")
    return f"{before}#/{_ATTRIBUTES.get(first, first)}{slash}{rest}"


def _attribute(name: str, value: msgspec.Raw) -> Any:
    found = decode(_decode_value, bytes(value).decode())
    if not isinstance(found, str | bool | int):  # JSON event format §2.2
        raise Invalid("an attribute is a string, a boolean or an integer", f"#/{name}")
    return found


def _header(value: str) -> str:
    """Return a header's value, which may be quoted and percent-encoded (HTTP binding §3.1.3.2)."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise Malformed("a header is not percent-encoded UTF-8") from None


def _base64(raw: msgspec.Raw) -> bytes:
    text = decode(_decode_value, bytes(raw).decode())
    try:
        return b64decode(text if isinstance(text, str) else "!", validate=True)
    except ValueError:
        raise Invalid("must be base64", "#/data_base64") from None


def _from_bytes(data: bytes, content_type: str) -> msgspec.Raw:
    """Return JSON for what came as bytes: itself, a string of text, or one of base64."""
    kind = content_type.partition(";")[0].strip().lower()
    if _JSON.fullmatch(kind):
        return decode(_decode_any, utf8(data))
    text = utf8(data) if kind.startswith("text/") else b64encode(data).decode()
    return msgspec.Raw(_encode(text))


def _cloud_event(attributes: dict[str, Any], data: msgspec.Raw) -> CloudEvent:
    if attributes.get("specversion") != "1.0":
        raise Invalid("must be 1.0", "#/specversion")
    source = _required(attributes, "source", MAX_SOURCE)
    fields = {ours: attributes[theirs] for theirs, ours in _FIELDS.items() if theirs in attributes}
    try:
        # Headers are text, whatever they mean: so numbers and booleans may be too.
        event = msgspec.convert(
            {
                "to": _required(attributes, "subject", 1024),
                "type": _required(attributes, "type", 128),
                "id": _required(attributes, "id", 255),
                **fields,
            },
            EventIn,
            strict=False,
        )
    except msgspec.ValidationError as error:
        raise Invalid(str(error).partition(" - at ")[0], pointer(pointer_of(str(error)))) from None
    event.data = data
    return CloudEvent(event, f"ce:{source}\n{event.id}")


def _required(attributes: Mapping[str, Any], name: str, limit: int) -> str:
    value = attributes.get(name)
    if not isinstance(value, str):
        raise Invalid("this attribute is required, as a string", f"#/{name}")
    return check_text(value, limit, f"#/{name}")
