"""API keys: who is believed, and what they may do."""

import hmac
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.auth import keys
from service.auth.keys import SCOPES, ApiKey, Keyring, NewKey, generate, parse
from service.domain.addresses import Patterns
from service.domain.errors import Forbidden, Unauthorized

NOW = 1_800_000_000.0
ADMIN_KEY = "the-key-of-the-first-admin"


def record(new: NewKey, *scopes: str, **rest: Any) -> ApiKey:
    return ApiKey(
        id=new.id,
        name="shop",
        secret_hash=new.secret_hash,
        scopes=frozenset(scopes or {"publish"}),
        **rest,
    )


@pytest.fixture
def new() -> NewKey:
    return generate()


@pytest.fixture
def keyring(new: NewKey) -> Keyring:
    keyring = Keyring(ADMIN_KEY)
    keyring.put(record(new))
    return keyring


def test_a_new_key_is_found_by_its_id_and_kept_only_as_a_hash(new: NewKey) -> None:
    key_id, secret = parse(new.presented)
    assert key_id == new.id
    assert new.secret_hash == sha256(secret.encode()).digest()
    assert len(secret) == 43  # 32 bytes in base64


def test_no_two_keys_are_alike() -> None:
    made = [generate() for _ in range(1000)]
    assert len({new.id for new in made}) == len({new.secret_hash for new in made}) == 1000


def test_a_secret_with_underscores_is_read_whole() -> None:
    assert parse("tk_ab12_a_b-_c_") == ("ab12", "a_b-_c_")


def test_a_key_does_not_print_itself(new: NewKey) -> None:
    assert new.presented.removeprefix(f"tk_{new.id}_") not in f"{new} {new!r}"


MALFORMED = ["", "tk", "tk_", "tk_a", "tk_a_", "tk__b", "TK_a_b", "tk_a b_c", "tk_a_b\n", "tk_é_b"]


@pytest.mark.parametrize("presented", [*MALFORMED, "x tk_a_b", "tk_a_" + "b" * 2000, "\ud800"])
def test_what_is_no_key_is_unauthorized(keyring: Keyring, presented: str) -> None:
    with pytest.raises(Unauthorized):
        parse(presented)
    with pytest.raises(Unauthorized):
        keyring.authenticate(presented, now=NOW)


def test_a_key_that_was_put_is_believed(keyring: Keyring, new: NewKey) -> None:
    assert keyring.authenticate(new.presented, now=NOW) == record(new)


def test_a_wrong_secret_and_a_wrong_id_look_the_same(keyring: Keyring, new: NewKey) -> None:
    other = generate()
    messages = set()
    for presented in (f"tk_{new.id}_{parse(other.presented)[1]}", other.presented, new.presented[:-1]):
        with pytest.raises(Unauthorized) as refused:
            keyring.authenticate(presented, now=NOW)
        messages.add(str(refused.value))
    assert messages == {"the API key is not known"}


def test_the_hash_is_not_the_key(keyring: Keyring, new: NewKey) -> None:
    with pytest.raises(Unauthorized):
        keyring.authenticate(f"tk_{new.id}_{new.secret_hash.hex()}", now=NOW)


def test_a_removed_key_is_refused(keyring: Keyring, new: NewKey) -> None:
    keyring.authenticate(new.presented, now=NOW)
    keyring.remove(new.id)
    keyring.remove(new.id)
    with pytest.raises(Unauthorized):
        keyring.authenticate(new.presented, now=NOW)
    assert keyring.used() == {}
    assert keyring.last_used == {}


def test_a_key_that_is_put_again_replaces_the_old_one(keyring: Keyring, new: NewKey) -> None:
    rotated = generate()
    keyring.put(record(rotated._replace(id=new.id), "read"))
    with pytest.raises(Unauthorized):
        keyring.authenticate(new.presented, now=NOW)
    presented = f"tk_{new.id}_{parse(rotated.presented)[1]}"
    assert keyring.authenticate(presented, now=NOW).scopes == {"read"}


def test_a_key_expires_at_its_time_and_only_its_holder_is_told(new: NewKey) -> None:
    keyring = Keyring()
    keyring.put(record(new, expires_at=NOW))
    assert keyring.authenticate(new.presented, now=NOW - 0.001).id == new.id
    with pytest.raises(Unauthorized, match="expired"):
        keyring.authenticate(new.presented, now=NOW)
    with pytest.raises(Unauthorized, match="not known"):
        keyring.authenticate(new.presented + "x", now=NOW)


class TestAdmin:
    def test_the_raw_key_is_the_first_admin(self, keyring: Keyring) -> None:
        admin = keyring.authenticate(ADMIN_KEY, now=NOW)
        assert admin.id == "admin"
        assert admin.scopes == SCOPES
        admin.may_publish("everyone")

    @pytest.mark.parametrize("wrong", [ADMIN_KEY[:-1], ADMIN_KEY + " ", ADMIN_KEY.upper()])
    def test_nothing_else_is(self, keyring: Keyring, wrong: str) -> None:
        with pytest.raises(Unauthorized):
            keyring.authenticate(wrong, now=NOW)

    @pytest.mark.parametrize("unset", [None, ""])
    def test_without_one_nobody_is(self, unset: str | None) -> None:
        with pytest.raises(Unauthorized):
            Keyring(unset).authenticate("", now=NOW)

    def test_it_may_look_like_any_key(self, new: NewKey) -> None:
        assert Keyring(new.presented).authenticate(new.presented, now=NOW).id == "admin"


class TestConstantTime:
    """Every digest is compared by compare_digest, and for an unknown id too."""

    @pytest.fixture
    def compared(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
        pairs: list[tuple[bytes, bytes]] = []

        def compare(one: bytes, other: bytes) -> bool:
            pairs.append((one, other))
            return hmac.compare_digest(one, other)

        monkeypatch.setattr(keys, "compare_digest", compare)
        return pairs

    def test_an_unknown_id_costs_what_a_known_one_does(
        self, keyring: Keyring, new: NewKey, compared: list[tuple[bytes, bytes]]
    ) -> None:
        for presented in (f"{new.presented}x", generate().presented):
            with pytest.raises(Unauthorized):
                keyring.authenticate(presented, now=NOW)
        assert len(compared) == 6  # the admin's and the key's two, each time
        assert {len(side) for pair in compared for side in pair} == {32}

    def test_a_good_key_is_compared(
        self, keyring: Keyring, new: NewKey, compared: list[tuple[bytes, bytes]]
    ) -> None:
        keyring.authenticate(new.presented, now=NOW)
        assert (new.secret_hash, new.secret_hash) in compared


def test_uses_are_noted_until_saved(keyring: Keyring, new: NewKey) -> None:
    keyring.authenticate(ADMIN_KEY, now=NOW)
    assert keyring.used() == {}  # the admin's has no row to note it in
    keyring.authenticate(new.presented, now=NOW)
    keyring.authenticate(new.presented, now=NOW + 1)
    assert keyring.used() == {new.id: NOW + 1}
    keyring.saved({new.id: NOW})
    assert keyring.used() == {new.id: NOW + 1}
    keyring.saved({new.id: NOW + 1})
    assert keyring.used() == {}
    assert keyring.last_used == {new.id: NOW + 1}


def test_a_refused_key_was_not_used(keyring: Keyring, new: NewKey) -> None:
    with pytest.raises(Unauthorized):
        keyring.authenticate(f"{new.presented}x", now=NOW)
    assert keyring.used() == {}


@pytest.mark.parametrize("scope", sorted(SCOPES))
def test_a_scope_is_required(new: NewKey, scope: str) -> None:
    record(new, scope).require(scope)
    record(new, "admin").require(scope)
    with pytest.raises(Forbidden):
        record(new, *(SCOPES - {scope, "admin"})).require(scope)


def test_an_admin_limited_to_addresses_is_none(new: NewKey) -> None:
    """What admins do has no such bounds: it could make itself a key without them."""
    limited = record(new, "admin", addresses=Patterns(["room:a"]))
    limited.may_publish("room:a")
    with pytest.raises(Forbidden):
        limited.require("admin")


class TestRotation:
    @pytest.fixture
    def former(self) -> NewKey:
        return generate()

    @pytest.fixture
    def rotated(self, new: NewKey, former: NewKey) -> Keyring:
        keyring = Keyring()
        keyring.put(record(new, former_hash=former.secret_hash, former_until=NOW))
        return keyring

    def test_the_former_secret_is_good_until_its_time(
        self, rotated: Keyring, new: NewKey, former: NewKey
    ) -> None:
        old = f"tk_{new.id}_{parse(former.presented)[1]}"
        assert rotated.authenticate(old, now=NOW - 0.001).id == new.id
        assert rotated.authenticate(new.presented, now=NOW).id == new.id
        with pytest.raises(Unauthorized, match="not known"):
            rotated.authenticate(old, now=NOW)

    def test_another_secret_keeps_the_id(self, new: NewKey) -> None:
        assert generate(new.id).presented.startswith(f"tk_{new.id}_")
        assert generate(new.id).secret_hash != new.secret_hash


def test_publishing_needs_the_scope_and_the_address(new: NewKey) -> None:
    shop = record(new, "publish", addresses=Patterns(["room:shop.*", "everyone"]))
    shop.may_publish("room:shop.1")
    shop.may_publish("everyone")
    for address in ("room:shop", "user:alice", "room:SHOP.1"):
        with pytest.raises(Forbidden):
            shop.may_publish(address)
    record(new, "publish").may_publish("user:alice")
    with pytest.raises(Forbidden):
        record(new, "read", "tokens").may_publish("everyone")


def test_no_patterns_are_not_all_patterns(new: NewKey) -> None:
    with pytest.raises(Forbidden):
        record(new, "publish", addresses=Patterns()).may_publish("everyone")


@given(st.text() | st.from_regex(r"tk_[a-z0-9_]*_[\w-]*", fullmatch=True))
def test_nothing_made_up_is_believed(presented: str) -> None:
    keyring = Keyring(ADMIN_KEY)
    keyring.put(record(generate()))
    with pytest.raises(Unauthorized):
        keyring.authenticate(presented, now=NOW)
