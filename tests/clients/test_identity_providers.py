"""Tokens in the shape of well-known identity providers, against a service that has only their JWKS URL."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jose import jws
from websockets.exceptions import InvalidStatus

from tests.harness import Device, Server, eventually
from tests.unit.test_jwks import Issuer, Private, member

Start = Callable[..., Awaitable[Server]]

NAMESPACE = "https://app.example.com/"
KEYCLOAK = "https://sso.example.com/realms/shop"
COGNITO = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEfGhI"
CLIENT_ID = "1h57kf5cpq17m0eml12EXAMPLE"


@pytest.fixture(scope="module")
def private() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
async def issuer(private: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issuer]:
    monkeypatch.setenv("NO_PROXY", "*")
    async with Issuer() as issuer:
        # As Keycloak does, beside a key that encrypts.
        encrypts = member(rsa.generate_private_key(65537, 2048), "enc", alg="RSA-OAEP", use="enc")
        issuer.publish(encrypts, member(private, "sig", use="sig"))
        yield issuer


@pytest.fixture
def provider(start: Start, issuer: Issuer) -> Start:
    async def start_one(**settings: Any) -> Server:
        given = {"jwt_secret": None, "jwks_url": issuer.url, "jwt_algorithm": "RS256"}
        return await start(**(given | settings))

    return start_one


def signed(private: Private, claims: dict[str, Any], *, lives: int, algorithm: str = "RS256") -> str:
    now = int(time.time())
    said = {"iat": now, "exp": now + lives, **claims}
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return jws.sign(said, pem, {"kid": "sig"}, algorithm)


async def accepted(server: Server, token: str, **query: Any) -> Device:
    device = await server.device(token=token, device="page", **query)
    await device.until("live")
    return device


async def refusal(server: Server, token: str) -> str:
    """Return why a token is refused, as its socket is told; a question over HTTP is told the same."""
    with pytest.raises(InvalidStatus) as refused:
        await server.device(token=token)
    assert refused.value.response.status_code == 401
    headers = {"Authorization": f"Bearer {token}"}
    detail: str = (await server.http.get("/v1/inbox/unread", headers=headers)).json()["detail"]
    assert json.loads(refused.value.response.body or b"")["detail"] == detail
    return detail


def auth0(**more: Any) -> dict[str, Any]:
    """An access token of Auth0's own profile, for an API; its claims were set by an Action."""
    return {
        "iss": "https://shop.eu.auth0.com/", "sub": "auth0|65f1c0ffee", "azp": CLIENT_ID,
        "aud": ["https://tidings.example.com", "https://shop.eu.auth0.com/userinfo"],
        "scope": "openid profile",
    } | more  # fmt: skip


AUTH0 = {
    "jwt_audience": "https://tidings.example.com",
    "jwt_issuer": "https://shop.eu.auth0.com/",
    "claim_rooms": f"{NAMESPACE}rooms",
    "claim_publish": f"{NAMESPACE}publish",
}


async def test_auth0(provider: Start, private: rsa.RSAPrivateKey) -> None:
    server = await provider(**AUTH0)
    claims = auth0(**{f"{NAMESPACE}rooms": ["orders.*"], f"{NAMESPACE}publish": ["room:orders.*"]})
    device = await accepted(server, signed(private, claims, lives=86400))
    assert (await device.ask("join_room", room="orders.eu"))["type"] == "ok"
    sent = await device.ask("publish", to="room:orders.eu", event="note", echo=True)
    assert sent["type"] == "ok"
    assert (await device.ask("join_room", room="staff"))["code"] == "forbidden"
    # A | is a character like any other in an address, and is escaped in a path.
    await server.publish("user:auth0|65f1c0ffee", "hello")
    assert (await device.until("event", event="hello"))["to"] == "user:auth0|65f1c0ffee"
    assert (await server.http.get("/v1/users/auth0%7C65f1c0ffee/devices")).status_code == 200
    await device.close()


async def test_auth0_for_another_api_or_without_the_slash(
    provider: Start, private: rsa.RSAPrivateKey
) -> None:
    server = await provider(**AUTH0)
    other = auth0(aud="https://billing.example.com")
    assert "claim aud" in await refusal(server, signed(private, other, lives=86400))
    bare = auth0(iss="https://shop.eu.auth0.com")
    assert "claim iss" in await refusal(server, signed(private, bare, lives=86400))


async def test_a_namespaced_object_is_not_reached(provider: Start, private: rsa.RSAPrivateKey) -> None:
    """The whole name is one claim's, or else each dot a step: an object under a name with dots is neither."""
    server = await provider(**AUTH0)
    claims = auth0(**{NAMESPACE: {"rooms": ["orders"]}, "https://app": {"rooms": ["orders"]}})
    device = await accepted(server, signed(private, claims, lives=86400))
    assert (await device.ask("join_room", room="orders"))["code"] == "forbidden"
    await device.close()


def keycloak(**more: Any) -> dict[str, Any]:
    """An access token of Keycloak's, with the mappers that the page names."""
    return {
        "iss": KEYCLOAK, "sub": "f3b1c1f0-0f5b-4f8c-9a58-3d0f4e7a1c11", "typ": "Bearer", "azp": "shop-web",
        "aud": ["tidings", "account"], "jti": "onrtac:9c7d2c52-93ea-4d5d-a1ae-5f7d0b2f1f5c", "sid": "a1",
        "realm_access": {"roles": ["default-roles-shop", "offline_access", "uma_authorization"]},
        "resource_access": {"tidings": {"roles": ["orders.eu", "support"]}, "account": {"roles": ["x y"]}},
        "scope": "openid profile email", "name": "Alice Liddell", "preferred_username": "alice",
    } | more  # fmt: skip


async def test_keycloak_with_the_roles_of_a_client_as_rooms(
    provider: Start, private: rsa.RSAPrivateKey
) -> None:
    server = await provider(
        jwt_audience="tidings", jwt_issuer=KEYCLOAK, claim_rooms="resource_access.tidings.roles"
    )
    claims = keycloak()
    device = await accepted(server, signed(private, claims, lives=300))
    assert (await device.ask("join_room", room="support"))["type"] == "ok"
    assert (await device.ask("join_room", room="offline_access"))["code"] == "forbidden"
    # Five minutes are short: the next token comes over the open socket.
    fresh = await device.ask("refresh_token", token=signed(private, claims, lives=600))
    assert fresh["expires_at"] > time.time() + 500
    # By its jti, which is in every one of Keycloak's, this one can be taken back.
    answer = await server.http.post("/v1/revocations", json={"jti": claims["jti"]})
    assert answer.json()["closed"] == 1
    assert await device.closed() == 4001


async def test_keycloak_by_name_with_an_attribute(provider: Start, private: rsa.RSAPrivateKey) -> None:
    server = await provider(
        jwt_audience="tidings",
        jwt_issuer=KEYCLOAK,
        claim_user="preferred_username",
        claim_rooms="tidings.rooms",
    )
    claims = keycloak(tidings={"rooms": ["orders.eu"]}, presence=True)
    async with await accepted(server, signed(private, claims, lives=300), presence=1) as device:
        assert (await device.ask("join_room", room="orders.eu"))["type"] == "ok"
        # `name` is what others see.
        seen = await eventually(lambda: presence(device))
        assert seen == [("alice", {"name": "Alice Liddell"})]


async def presence(device: Device) -> list[tuple[str, Any]]:
    users = (await device.ask("presence", room="orders.eu"))["users"]
    return [(each["user"], each["info"]) for each in users]


async def test_keycloak_without_the_audience_or_with_paths_of_groups(
    provider: Start, private: rsa.RSAPrivateKey
) -> None:
    server = await provider(jwt_audience="tidings", jwt_issuer=KEYCLOAK, claim_rooms="groups")
    told = await refusal(server, signed(private, keycloak(aud="account"), lives=300))
    assert "claim aud" in told
    # No room has a slash in its name.
    async with await accepted(server, signed(private, keycloak(groups=["/staff"]), lives=300)) as device:
        assert (await device.ask("join_room", room="staff"))["code"] == "forbidden"
    async with await accepted(server, signed(private, keycloak(groups=["staff"]), lives=300)) as device:
        assert (await device.ask("join_room", room="staff"))["type"] == "ok"


def cognito(use: str, **more: Any) -> dict[str, Any]:
    """A token of a Cognito user pool; an access token names its client, and no audience."""
    sub = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
    common = {
        "iss": COGNITO, "sub": sub, "token_use": use, "cognito:groups": ["orders.eu", "staff"],
        "jti": f"{use}-1", "origin_jti": "o-1", "event_id": "e-1", "auth_time": int(time.time()),
    }  # fmt: skip
    own = {
        "id": {"aud": CLIENT_ID, "cognito:username": "alice", "name": "Alice", "email_verified": True},
        "access": {"client_id": CLIENT_ID, "username": "alice", "version": 2, "scope": "openid"},
    }
    return common | own[use] | more


async def test_cognito_by_id_token(provider: Start, private: rsa.RSAPrivateKey) -> None:
    server = await provider(
        jwt_audience=CLIENT_ID,
        jwt_issuer=COGNITO,
        claim_user="cognito:username",
        claim_rooms="cognito:groups",
    )
    async with await accepted(server, signed(private, cognito("id"), lives=3600)) as device:
        assert device.frames[0]["user"] == "alice"
        assert (await device.ask("join_room", room="staff"))["type"] == "ok"
    # The access token of the same user is refused: nothing in it says for whom it was issued.
    assert "claim aud" in await refusal(server, signed(private, cognito("access"), lives=3600))


async def test_cognito_by_the_client_of_an_access_token(provider: Start, private: rsa.RSAPrivateKey) -> None:
    server = await provider(
        claim_audience="client_id",
        jwt_audience=CLIENT_ID,
        jwt_issuer=COGNITO,
        claim_user="username",
        claim_rooms="cognito:groups",
    )
    async with await accepted(server, signed(private, cognito("access"), lives=3600)) as device:
        assert device.frames[0]["user"] == "alice"
        assert (await device.ask("join_room", room="staff"))["type"] == "ok"
    for other in (cognito("access", client_id="another-app"), cognito("id", aud=CLIENT_ID)):
        assert "claim client_id" in await refusal(server, signed(private, other, lives=3600))


async def test_cognito_by_an_access_token_that_is_bound_to_a_resource(
    provider: Start, private: rsa.RSAPrivateKey
) -> None:
    resource = "https://tidings.example.com"
    server = await provider(jwt_audience=resource, jwt_issuer=COGNITO, claim_rooms="cognito:groups")
    token = signed(private, cognito("access", aud=resource), lives=3600)
    async with await accepted(server, token) as device:
        assert (await device.ask("join_room", room="orders.eu"))["type"] == "ok"


async def test_any_other_by_its_scopes_and_an_elliptic_curve(start: Start, issuer: Issuer) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    issuer.publish(member(curve, "sig"))
    server = await start(
        jwt_secret=None, jwks_url=issuer.url, jwt_algorithm="ES256", jwt_audience="tidings",
        jwt_issuer="https://id.example.com", claim_rooms="scope",
    )  # fmt: skip
    claims = {"iss": "https://id.example.com", "sub": "alice", "aud": "tidings", "scope": "openid orders.eu"}
    token = signed(curve, claims, lives=600, algorithm="ES256")
    async with await accepted(server, token) as device:
        assert (await device.ask("join_room", room="orders.eu"))["type"] == "ok"
    assert "claim exp" in await refusal(server, signed(curve, claims, lives=31 * 86400, algorithm="ES256"))


async def test_tokens_cannot_be_minted_where_a_provider_signs_them(provider: Start) -> None:
    server = await provider(**AUTH0)
    answer = await server.http.post("/v1/tokens", json={"user": "alice"})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
