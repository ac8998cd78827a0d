"""A plain head is read as a general parser reads it; anything else is left to that one."""

from contextlib import suppress
from typing import Any

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.api.middleware import request_id
from service.domain.request import MAX_HEAD, read_request

PLAIN = b"POST /v1/events?a=b HTTP/1.1\r\nHost: here\r\nX-Thing:\t a b \r\nEmpty:\r\n\r\nbody"


def test_a_plain_head_is_read() -> None:
    request = read_request(PLAIN)
    assert request is not None
    assert (request.method, request.target) == ("POST", "/v1/events?a=b")
    assert request.headers == [(b"host", b"here"), (b"x-thing", b"a b"), (b"empty", b"")]
    assert PLAIN[request.end :] == b"body"


@pytest.mark.parametrize("head", [
    b"",
    PLAIN[:40],
    PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    PLAIN.replace(b"POST ", b"post "),
    PLAIN.replace(b"POST ", b"POST  "),
    PLAIN.replace(b"Host:", b"Host :"),
    PLAIN.replace(b"Host:", b" Host:"),
    PLAIN.replace(b"Host:", b":"),
    PLAIN.replace(b"here\r\n", b"here\n"),
    PLAIN.replace(b"here", b"he\x00re"),
    PLAIN.replace(b"here", b"he\rre"),
    PLAIN.replace(b"here\r\n", b"here\r\n folded\r\n"),
    PLAIN.replace(b"\r\n\r\n", b"\n\n"),
    PLAIN.replace(b"here", b"x" * MAX_HEAD),
])  # fmt: skip
def test_what_is_not_plain_is_left_alone(head: bytes) -> None:
    assert read_request(head) is None


class Seen:
    """What httptools makes of a request."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True


def seen(data: bytes) -> tuple[Seen, Any]:
    result = Seen()
    parser = httptools.HttpRequestParser(result)
    with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        parser.feed_data(data)
    return result, parser


BREAKS = st.sampled_from([b" ", b"\t", b"\r", b"\n", b"\r\n", b":", b"\x00", b"\xff", b"\x7f", b"a", b""])


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A plain head with something put in, or taken out, in a few places."""
    names = st.sampled_from([b"Host", b"Content-Length", b"X-Thing", b"Authorization", b"Host"])
    values = st.sampled_from([b"here", b"0", b"a, b", b"", b" x ", b"\xe9"])
    lines = [b"%s: %s" % pair for pair in draw(st.lists(st.tuples(names, values), max_size=4))]
    head = b"\r\n".join([b"POST /v1/events HTTP/1.1", *lines, b"", b""])
    for at in draw(st.lists(st.integers(0, len(head)), max_size=3)):
        head = head[:at] + draw(BREAKS) + head[at + draw(st.integers(0, 1)) :]
    return head


@given(heads())
@example(PLAIN)
def test_what_is_read_is_what_a_general_parser_reads(head: bytes) -> None:
    request = read_request(head)
    if request is None:
        return
    theirs, parser = seen(head)
    if not theirs.complete:
        return  # it refuses more: that a request is plain does not say that it is right
    assert parser.get_method() == request.method.encode()
    assert theirs.url == request.target.encode()
    assert [(name, value.strip(b" \t")) for name, value in theirs.headers] == request.headers


def test_no_head_takes_long() -> None:
    """A pattern that tried twice would take hours for these."""
    for head in (
        b"A" * MAX_HEAD,
        b"GET / HTTP/1.1\r\n" + b"a:" * MAX_HEAD,
        PLAIN[:-8] + b"a: b\r\n" * 10_000,
    ):
        assert read_request(head) is None


def test_an_unsound_id_is_replaced() -> None:
    assert request_id("mine-1") == "mine-1"
    for unsound in ("", "a b", "a\n", "x" * 129, "é"):
        assert len(request_id(unsound)) == 32
