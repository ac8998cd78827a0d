"""What a token may say, and everything that it may not."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.addresses import Patterns
from service.domain.claims import LEEWAY, ClaimNames, Claims, read_claims
from service.domain.errors import Unauthorized

NOW = 1_800_000_000.0
HOUR = 3600.0
MAX_AGE = 30 * 86400.0
GOOD: dict[str, object] = {"sub": "alice", "exp": NOW + HOUR}


def read(payload: dict[str, Any], names: ClaimNames | None = None, **expected: Any) -> Claims:
    return read_claims(payload, names or ClaimNames(), now=NOW, max_age=MAX_AGE, **expected)


def refusal(payload: dict[str, Any], **expected: Any) -> str:
    with pytest.raises(Unauthorized) as refused:
        read(payload, **expected)
    return str(refused.value)


def test_the_least_that_is_needed_grants_nothing() -> None:
    claims = read(GOOD)
    assert claims == Claims(user="alice", expires_at=NOW + HOUR)
    assert not claims.rooms
    assert not claims.publish


def test_everything_a_token_can_say() -> None:
    claims = read(
        GOOD
        | {
            "iat": NOW - 5,
            "nbf": NOW - 5,
            "jti": "t1",
            "rooms": ["orders.*", "lobby"],
            "join": ["lobby", "orders.eu", "lobby"],
            "publish": ["room:lobby", "user:*"],
            "presence": True,
            "info": {"name": "Ada", "face": 3},
            "scope": "openid",
        }
    )
    assert claims == Claims(
        user="alice",
        expires_at=NOW + HOUR,
        issued_at=NOW - 5,
        jti="t1",
        rooms=Patterns(["orders.*", "lobby"]),
        join=("lobby", "orders.eu"),
        publish=Patterns(["room:lobby", "user:*"]),
        presence=True,
        info='{"name":"Ada","face":3}',
    )


NOT_TIMES: list[object] = [None, True, False, "1800003600", math.inf, -math.inf, math.nan, 10**400, [], {}]


@pytest.mark.parametrize("value", NOT_TIMES)
@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
def test_a_time_is_a_finite_number(claim: str, value: object) -> None:
    assert claim in refusal(GOOD | {claim: value})


def test_a_number_too_great_for_a_float_is_no_time() -> None:
    payload = json.loads('{"sub": "alice", "exp": 1e400}')
    assert payload["exp"] == math.inf
    assert refusal(payload) == "the token's claim exp is not a time"


def test_exp_is_required() -> None:
    assert refusal({"sub": "alice"}) == "the token's claim exp is missing"


@pytest.mark.parametrize("exp", [NOW - 1, NOW, 0, -5])
def test_an_expired_token_gets_no_leeway(exp: float) -> None:
    assert refusal({"sub": "alice", "exp": exp}) == "the token has expired"


def test_it_is_good_until_it_expires() -> None:
    assert read({"sub": "alice", "exp": NOW + 0.001}).user == "alice"


def test_nbf_may_be_ahead_by_no_more_than_the_leeway() -> None:
    assert read(GOOD | {"nbf": NOW + LEEWAY}).user == "alice"
    assert "not valid yet" in refusal(GOOD | {"nbf": NOW + LEEWAY + 1})


class TestMaximumAge:
    """A revocation is kept for as long as a token can live, so no token may live longer."""

    def test_counts_from_iat(self) -> None:
        issued = NOW - HOUR
        assert read({"sub": "a", "iat": issued, "exp": issued + MAX_AGE}).issued_at == issued
        assert "exp" in refusal({"sub": "a", "iat": issued, "exp": issued + MAX_AGE + 1})

    def test_counts_from_now_without_iat(self) -> None:
        assert read({"sub": "a", "exp": NOW + MAX_AGE}).issued_at is None
        assert "exp" in refusal({"sub": "a", "exp": NOW + MAX_AGE + 1})

    def test_an_iat_in_the_future_is_refused(self) -> None:
        iat = NOW + LEEWAY + 1
        assert "iat" in refusal({"sub": "a", "iat": iat, "exp": iat + HOUR})

    def test_an_issuer_whose_clock_is_a_little_ahead_is_no_attacker(self) -> None:
        iat = NOW + LEEWAY
        assert read({"sub": "a", "iat": iat, "exp": iat + MAX_AGE}).user == "a"


class TestParties:
    @pytest.mark.parametrize("aud", ["tidings", ["other", "tidings"]])
    def test_the_audience_is_one_of_those_named(self, aud: object) -> None:
        assert read(GOOD | {"aud": aud}, audience="tidings").user == "alice"

    @pytest.mark.parametrize(
        "aud",
        [None, "", "tiding", "Tidings", "tidings2", ["other"], [], {"tidings": 1}, [["tidings"]]],
    )
    def test_any_other_is_refused(self, aud: object) -> None:
        assert "aud" in refusal(GOOD | {"aud": aud}, audience="tidings")

    def test_a_missing_one_is_refused(self) -> None:
        assert "aud" in refusal(GOOD, audience="tidings")
        assert "iss" in refusal(GOOD, issuer="https://issuer.example/")

    @pytest.mark.parametrize("iss", [None, "https://issuer.example", ["https://issuer.example/"]])
    def test_the_issuer_is_exact(self, iss: object) -> None:
        assert "iss" in refusal(GOOD | {"iss": iss}, issuer="https://issuer.example/")

    def test_the_issuer_is_believed(self) -> None:
        iss = "https://issuer.example/"
        assert read(GOOD | {"iss": iss}, issuer=iss).user == "alice"


@pytest.mark.parametrize("sub", [None, 7, True, "", "x" * 257, "a\x00b", "a\nb", "\ud800", ["alice"]])
def test_the_user_must_be_a_user_id(sub: object) -> None:
    assert "sub" in refusal(GOOD | {"sub": sub})


def test_the_user_is_required() -> None:
    assert refusal({"exp": NOW + HOUR}) == "the token's claim sub is missing"


@pytest.mark.parametrize("jti", [None, 7, "", "x" * 257, "\x00", "\udfff", []])
def test_a_jti_is_one_that_a_revocation_can_name(jti: object) -> None:
    assert "jti" in refusal(GOOD | {"jti": jti})


GRANTS = ["rooms", "join", "publish"]


@pytest.mark.parametrize("value", [None, 7, True, {"a": 1}, [7], [None], [["a"]], [""], ["a\x00"]])
@pytest.mark.parametrize("claim", GRANTS)
def test_a_grant_is_a_list_of_strings(claim: str, value: object) -> None:
    assert f"the token's claim {claim} " in refusal(GOOD | {claim: value})


@pytest.mark.parametrize("pattern", ["*a", "a*b", "**", "x" * 262])
@pytest.mark.parametrize("claim", ["rooms", "publish"])
def test_a_malformed_pattern_refuses_the_token_and_is_not_repeated(claim: str, pattern: str) -> None:
    message = refusal(GOOD | {claim: ["fine", pattern]})
    assert claim in message
    assert pattern not in message


@pytest.mark.parametrize("room", ["orders.*", "a b", "room/1", "x" * 129, "ü"])
def test_rooms_to_join_are_names_and_not_patterns(room: str) -> None:
    assert "join" in refusal(GOOD | {"join": [room]})


@pytest.mark.parametrize("claim", GRANTS)
def test_grants_are_at_most_a_thousand(claim: str) -> None:
    names = [f"r{n}" for n in range(1001)]
    assert read(GOOD | {claim: names[:1000]}).user == "alice"
    assert claim in refusal(GOOD | {claim: names})
    assert claim in refusal(GOOD | {claim: " ".join(names)})


def test_a_grant_may_be_a_string_as_oauth_writes_scopes() -> None:
    claims = read(GOOD | {"rooms": "orders.* lobby", "publish": "room:lobby", "join": ""})
    assert claims.rooms == Patterns(["orders.*", "lobby"])
    assert claims.publish == Patterns(["room:lobby"])
    assert claims.join == ()


@pytest.mark.parametrize("presence", [None, 1, 0, "true", []])
def test_presence_is_true_or_false(presence: object) -> None:
    assert "presence" in refusal(GOOD | {"presence": presence})


class TestInfo:
    def test_a_name_alone_becomes_an_object(self) -> None:
        assert read(GOOD | {"name": 'Ada "L"'}).info == r'{"name":"Ada \"L\""}'

    def test_info_goes_before_name(self) -> None:
        assert read(GOOD | {"name": "Ada", "info": [1]}).info == "[1]"

    @pytest.mark.parametrize("name", [None, 7, ["Ada"], "\ud800", "x" * 1024])
    def test_what_cannot_be_a_name(self, name: object) -> None:
        assert "name" in refusal(GOOD | {"name": name})

    def test_it_has_at_most_1_kib_as_json(self) -> None:
        assert read(GOOD | {"info": "x" * 1022}).info == json.dumps("x" * 1022)
        assert "info" in refusal(GOOD | {"info": "x" * 1023})
        assert "info" in refusal(GOOD | {"info": "é" * 512})

    @pytest.mark.parametrize("depth", [65, 500, 5000])
    def test_it_is_not_deep(self, depth: int) -> None:
        deep: list[object] = []
        for _ in range(depth):
            deep = [deep]
        assert "info" in refusal(GOOD | {"info": deep})


class TestForeignNames:
    names = ClaimNames(user="uid", rooms="https://app.example/rooms", join="app.join", publish="a.b.publish")

    def test_a_name_with_dots_of_its_own_and_a_path(self) -> None:
        claims = read(
            {
                "uid": "alice",
                "exp": NOW + HOUR,
                "https://app.example/rooms": ["lobby"],
                "app": {"join": ["lobby"]},
                "a": {"b": {"publish": ["user:*"]}},
            },
            self.names,
        )
        assert claims.rooms == Patterns(["lobby"])
        assert claims.join == ("lobby",)
        assert claims.publish == Patterns(["user:*"])

    def test_the_literal_name_goes_before_the_path(self) -> None:
        payload = {"uid": "a", "exp": NOW + HOUR, "app.join": ["x"], "app": {"join": ["y"]}}
        assert read(payload, self.names).join == ("x",)

    @pytest.mark.parametrize("app", [None, 7, "join", ["join"], {}, {"joint": ["x"]}])
    def test_a_path_that_leads_nowhere_grants_nothing(self, app: object) -> None:
        payload = {"uid": "a", "exp": NOW + HOUR, "app": app}
        assert read(payload, self.names).join == ()

    def test_the_usual_names_mean_nothing_then(self) -> None:
        payload = {"uid": "a", "sub": "b", "exp": NOW + HOUR, "rooms": ["*"], "publish": ["*"]}
        claims = read(payload, self.names)
        assert claims.user == "a"
        assert not claims.rooms
        assert not claims.publish

    def test_a_refusal_names_the_claim_as_it_is_configured(self) -> None:
        with pytest.raises(Unauthorized, match=r"claim a\.b\.publish "):
            read({"uid": "a", "exp": NOW + HOUR, "a": {"b": {"publish": [7]}}}, self.names)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400)
ANY_JSON = st.recursive(
    SCALARS | st.floats(NOW - HOUR, NOW + HOUR) | st.sampled_from(["room:lobby", "orders.*", "a"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=12,
)
CLAIMS = ["sub", "exp", "iat", "nbf", "jti", "aud", "iss", *GRANTS, "presence", "name", "info"]


@given(
    st.dictionaries(st.sampled_from(CLAIMS) | st.text(), ANY_JSON),
    st.sampled_from([{}, GOOD]),
    st.none() | st.text(),
    st.none() | st.text(),
)
def test_any_payload_gives_claims_or_unauthorized(
    said: dict[str, object], base: dict[str, object], audience: str | None, issuer: str | None
) -> None:
    try:
        claims = read(base | said, audience=audience, issuer=issuer)
    except Unauthorized:
        return
    assert NOW < claims.expires_at <= NOW + LEEWAY + MAX_AGE
    assert 1 <= len(claims.user) <= 256
    assert claims.info is None or len(claims.info.encode()) <= 1024
