"""The routes of the pages. None of them is a part of the API, so its description does not have them."""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from service.api.access import read_body
from service.api.events import PlainRoute
from service.api.service import service_of
from service.api.tokens import signed
from service.domain.addresses import check_user
from service.domain.errors import Forbidden, Malformed, NotFound
from service.settings import Settings
from service.web.files import STATIC, File, read, tree

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
PAGE: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
SHARED: Final = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
"""For the client's modules, which pages of any origin may load."""
OWN: Final = {"Cross-Origin-Resource-Policy": "same-origin"}

TOKEN_TTL: Final = 3600
_HERE: Final = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")


def pages(settings: Settings) -> list[BaseRoute]:
    """Return the routes: the client's modules always, the admin's page and the demonstration where wanted."""
    profile = "development" if settings.dev else "production"
    icon = read(STATIC / "favicon.svg")
    shown = [_file("/favicon.ico", icon, OWN), _files("/client", tree(STATIC / "client"), SHARED)]
    if settings.admin_page or settings.dev:
        assets = {name: file for name, file in tree(STATIC).items() if not name.endswith(".html")}
        shown.append(_files("/assets", assets, OWN))
    if settings.admin_page:
        shown.append(_file("/admin", read(STATIC / "admin.html", profile=profile), PAGE))
    if settings.dev:
        shown += [
            _file("/demo", read(STATIC / "demo.html", profile=profile), PAGE),
            PlainRoute("/demo/token", token, methods=["POST"]),
            PlainRoute("/", home, methods=["GET"]),
        ]
    return shown


def _file(path: str, file: File, headers: Mapping[str, str]) -> BaseRoute:
    async def answer(request: Request) -> Response:
        return file.answer(request, headers)

    return PlainRoute(path, answer, methods=["GET"])


def _files(folder: str, files: Mapping[str, File], headers: Mapping[str, str]) -> BaseRoute:
    async def answer(request: Request) -> Response:
        file = files.get(request.path_params["name"])
        if file is None:
            raise NotFound("there is no such file")
        return file.answer(request, headers)

    return PlainRoute(f"{folder}/{{name:path}}", answer, methods=["GET"])


async def home(_: Request) -> Response:
    """Lead whoever opens the printed address to the demonstration."""
    return RedirectResponse("/demo")


class _Wanted(msgspec.Struct):
    user: str


async def token(request: Request) -> Response:
    """Sign a token for the demonstration: for its own page, in a browser on this machine."""
    _check_is_here(request)
    try:
        user = msgspec.json.decode(await read_body(request, 1024), type=_Wanted).user
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed('send {"user": …}') from None
    grants = {"rooms": ["*"], "publish": ["*"], "presence": True, "name": user.capitalize()}
    made = signed(service_of(request), check_user(user, "#/user"), TOKEN_TTL, grants)
    body = made.model_dump_json()
    return Response(body, 201, {"Cache-Control": "no-store"}, "application/json")


def _check_is_here(request: Request) -> None:
    """Raise Forbidden unless a page of ours asks, on this machine, by a name that no other site can have.

    A page elsewhere could have its own name lead here: then the Host is that name.
    """
    host, origin = request.headers.get("host", ""), request.headers.get("origin", "")
    is_own = _HERE.fullmatch(host) and origin.partition("://")[2] == host
    if not is_own or not request.client or not _is_loopback(request.client.host):
        raise Forbidden("this is for the demonstration's own page, on this machine")


def _is_loopback(peer: str) -> bool:
    """Tell whether an address is this machine's; a proxy may have put anything in its place."""
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    # A socket that listens on :: sees IPv4 this way (RFC 4291 §2.5.5.2).
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
