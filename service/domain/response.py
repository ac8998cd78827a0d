"""An HTTP/1.1 response (RFC 9112 §4), for where no framework writes it. Pure code."""

from http import HTTPStatus
from typing import Final

from service.domain.request import Headers

_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def response_head(status: int, headers: Headers) -> bytes:
    """Return the head of a response whose body follows, without a length."""
    fields = b"".join([b"%s: %s\r\n" % header for header in headers])
    return b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, _PHRASES[status], fields)


def response(status: int, kind: bytes, body: bytes, headers: Headers) -> bytes:
    """Return the response; ``kind`` is the body's media type."""
    fields = b"".join([b"%s: %s\r\n" % header for header in headers])
    return b"HTTP/1.1 %d %s\r\n%scontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
        status, _PHRASES[status], fields, kind, len(body), body,
    )  # fmt: skip
