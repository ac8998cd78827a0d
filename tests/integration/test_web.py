"""The pages that the service serves: what they come with, and to whom."""

import re
from collections.abc import Awaitable, Callable

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from service.web.files import STATIC
from tests.harness import Server, token

Start = Callable[..., Awaitable[Server]]
WITHOUT = re.compile(r"https?://(?!127\.0\.0\.1|localhost|www\.w3\.org/2000/svg)")


@pytest.fixture
async def visitor(server: Server) -> httpx.AsyncClient:
    """A browser without any key."""
    return httpx.AsyncClient(base_url=server.url)


@pytest.mark.parametrize("path", ["/demo", "/admin"])
async def test_a_page_lets_nothing_of_others_in(visitor: httpx.AsyncClient, path: str) -> None:
    async with visitor:
        page = await visitor.get(path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' data:",
        "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }  # fmt: skip
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cross-origin-opener-policy"] == "same-origin"
    assert 'data-profile="development"' in page.text
    assert "{{" not in page.text


async def test_every_file_is_served_as_what_it_is_and_names_no_other_host(visitor: httpx.AsyncClient) -> None:
    files = [p for p in STATIC.rglob("*") if p.is_file() and p.suffix != ".html"]
    assert len(files) > 10
    async with visitor:
        for file in files:
            name = file.relative_to(STATIC).as_posix()
            answer = await visitor.get(f"/assets/{name}")
            assert (answer.status_code, answer.content) == (200, file.read_bytes()), name
            kind = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}[file.suffix]
            assert answer.headers["content-type"].partition(";")[0] == kind
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert not WITHOUT.search(answer.text), name
        for name in ("nothing.js", "../pages.py", "..%2fpages.py", "%2e%2e/files.py", "admin.html", ""):
            assert (await visitor.get(f"/assets/{name}")).status_code == 404, name


async def test_the_clients_modules_may_be_loaded_by_any_page(visitor: httpx.AsyncClient) -> None:
    async with visitor:
        for file in (STATIC / "client").iterdir():
            answer = await visitor.get(f"/client/{file.name}", headers={"Origin": "https://app.example"})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.headers["cross-origin-resource-policy"] == "cross-origin"


async def test_what_a_browser_has_it_need_not_load_again(visitor: httpx.AsyncClient) -> None:
    async with visitor:
        first = await visitor.get("/admin")
        headers = {"If-None-Match": first.headers["etag"]}
        again = await visitor.get("/admin", headers=headers)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
        etag = first.headers["etag"]
        for known in (f"W/{etag}", f'"another", W/{etag}', "*"):  # a proxy that compresses makes it weak
            assert (await visitor.get("/admin", headers={"If-None-Match": known})).status_code == 304
        for other in ("", '"another"', etag.strip('"'), f"W/{etag[:-2]}"):
            assert (await visitor.get("/admin", headers={"If-None-Match": other})).status_code == 200
        assert (await visitor.get("/assets/base.css", headers=headers)).status_code == 200
        assert (await visitor.head("/admin")).status_code == 200


async def test_the_printed_address_leads_to_the_demonstration(visitor: httpx.AsyncClient) -> None:
    async with visitor:
        answer = await visitor.get("/")
        assert (answer.status_code, answer.headers["location"]) == (307, "/demo")


async def test_production_has_no_demonstration_and_says_what_it_is(start: Start) -> None:
    server = await start(dev=False)
    for path in ("/", "/demo"):
        assert (await server.http.get(path)).status_code == 404
    mine = {"Origin": server.url}
    asked = await server.http.post("/demo/token", json={"user": "alice"}, headers=mine)
    assert asked.status_code == 404
    assert 'data-profile="production"' in (await server.http.get("/admin")).text


async def test_the_page_for_admins_can_be_left_out(start: Start) -> None:
    server = await start(dev=False, admin_page=False)
    for path in ("/admin", "/assets/base.css"):
        assert (await server.http.get(path)).status_code == 404


async def test_the_demonstration_gets_a_token_that_is_believed(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, headers={"Origin": server.url}) as page:
        made = await page.post("/demo/token", json={"user": "alice"})
        assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
        async with await server.live("", token=made.json()["token"]) as phone:
            assert phone.frames[0]["user"] == "alice"
        assert (await server.http.post("/v1/revocations", json={"user": "alice"})).status_code == 201
        again = (await page.post("/demo/token", json={"user": "alice"})).json()
        async with await server.live("", token=again["token"]):
            pass
        for wrong in (b"", b"{}", b'{"user": 5}', b"[", b'{"user": "\xff"}', b"x" * 2000):
            answer = await page.post("/demo/token", content=wrong)
            assert answer.status_code in {400, 413}
        assert (await page.post("/demo/token", json={"user": ""})).status_code == 422


@pytest.mark.parametrize("wrong", [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Host": "evil.example", "Origin": "http://evil.example"},
    {"Host": "127.0.0.1.evil.example", "Origin": "http://127.0.0.1.evil.example"},
    {"Host": "user@127.0.0.1", "Origin": "http://user@127.0.0.1"},
    {"Host": "[::1", "Origin": "http://[::1"},
    {"Host": "", "Origin": ""},
    {"Origin": "http://["},
    {"X-Forwarded-For": "203.0.113.9"},  # of a proxy on this machine: who asks is elsewhere
    {"X-Forwarded-For": "::ffff:203.0.113.9"},
    {"X-Forwarded-For": "nobody"},
])  # fmt: skip
async def test_nobody_else_gets_one(server: Server, wrong: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=server.url, headers={"Origin": server.url}) as elsewhere:
        answer = await elsewhere.post("/demo/token", json={"user": "alice"}, headers=wrong)
        assert answer.status_code == 403
        assert "token" not in answer.json()


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_this_machine_has_several_names(server: Server, host: str, peer: str) -> None:
    named = {"Host": host, "Origin": f"http://{host}", "X-Forwarded-For": peer}
    async with httpx.AsyncClient(base_url=server.url) as page:
        assert (await page.post("/demo/token", json={"user": "alice"}, headers=named)).status_code == 201


async def test_the_demonstrations_socket_is_of_its_own_origin_whatever_others_are_allowed(
    start: Start,
) -> None:
    server = await start(origins=("https://app.example",))
    async with connect(server.ws_url(token=token("alice")), origin=server.url):  # type: ignore[arg-type]
        pass
    production = await start(origins=("https://app.example",), dev=False)
    for here, origin in ((server, "http://127.0.0.1:1"), (production, production.url)):
        with pytest.raises(InvalidStatus) as refused:
            await connect(here.ws_url(token=token("alice")), origin=origin)  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
