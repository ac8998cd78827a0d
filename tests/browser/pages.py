"""Sites with the client's modules: with the service behind the same origin, as a proxy has it, or without."""

import asyncio
import mimetypes
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "service/web/static/client"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "require-trusted-types-for 'script'"
)
"""The strictest that lets a page use the client at all."""

Pages = dict[str, str]
"""What is at which path, besides the modules."""


def page(body: str, *, script: str = "/page.js") -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>A page</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/page.css">'
        f'<body>{body}<script type="module" src="{script}"></script></html>'
    )


@asynccontextmanager
async def site(pages: Pages, upstream: int | None = None, policy: str = "") -> AsyncIterator[str]:
    """Serve pages on an origin of its own, and all else from the service at a port, if one is given.

    Yields the origin, which is as trustworthy to a browser as one with TLS.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = re.split(rb"[ ?]", head)[1].decode()
            content = _content(pages, path)
            if content is not None or upstream is None:
                writer.write(_response(content, mimetypes.guess_type(path)[0] or "text/html", policy))
            else:
                await _pass_on(head, reader, writer, upstream)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://localhost:{server.sockets[0].getsockname()[1]}"


def _content(pages: Pages, path: str) -> bytes | None:
    if path in pages:
        return pages[path].encode()
    module = CLIENT / path.removeprefix("/client/")
    return module.read_bytes() if path.startswith("/client/") and module.is_file() else None


def _response(content: bytes | None, kind: str, policy: str) -> bytes:
    status = "204 No Content" if content is None else "200 OK"
    lines = [
        f"HTTP/1.1 {status}", "Connection: close", f"Content-Type: {kind}; charset=utf-8",
        f"Content-Security-Policy: {policy}", f"Content-Length: {len(content or b'')}",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (content or b"")


async def _pass_on(
    head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: int
) -> None:
    """Be a pipe; for one request, so that the next may be for a page again."""
    there, onwards = await asyncio.open_connection("127.0.0.1", upstream)
    onwards.write(head.replace(b"Connection: keep-alive", b"Connection: close"))
    pipes = [asyncio.create_task(_pipe(reader, onwards)), asyncio.create_task(_pipe(there, writer))]
    await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
    for pipe in pipes:
        pipe.cancel()
    await asyncio.gather(*pipes, return_exceptions=True)
    onwards.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
