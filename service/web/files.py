"""Files of the pages, as they go out: read once, with a validator (RFC 9110 §8.8.3)."""

from collections.abc import Mapping
from hashlib import sha256
from mimetypes import guess_type
from pathlib import Path
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {".js": "text/javascript", ".svg": "image/svg+xml", ".css": "text/css", ".html": "text/html"}


class File(NamedTuple):
    """What is answered, but for the headers that differ by where it is served."""

    body: bytes
    media_type: str
    etag: str

    def answer(self, request: Request, headers: Mapping[str, str]) -> Response:
        """Return the file, or that the one which the browser has is still good."""
        told = {
            "ETag": self.etag,
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            **headers,
        }
        if _names(request.headers.get("if-none-match", ""), self.etag):
            return Response(status_code=304, headers=told)
        return Response(self.body, headers=told, media_type=self.media_type)


def _names(given: str, etag: str) -> bool:
    """Tell whether If-None-Match has it, compared weakly (RFC 9110 §13.1.2): compressing makes a tag weak."""
    return given == "*" or etag in {tag.strip().removeprefix("W/") for tag in given.split(",")}


def read(path: Path, **filled: str) -> File:
    """Read a file; ``{{name}}`` in it becomes what is given by that name."""
    body = path.read_bytes()
    for name, value in filled.items():
        body = body.replace(b"{{%s}}" % name.encode(), value.encode())
    kind = _TYPES.get(path.suffix) or guess_type(path.name)[0] or "application/octet-stream"
    return File(body, kind, f'"{sha256(body).hexdigest()[:32]}"')


def tree(folder: Path) -> dict[str, File]:
    """Read all files in a folder and below, by their paths in it."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): read(path) for path in found}
