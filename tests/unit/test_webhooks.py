"""How calls are signed, when they are tried again, and where they may go."""

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from service.domain.webhooks import DELAYS, MAX_DELAY, is_public, next_delay, retry_after, signed, signing_key
from service.store.receipts import Standing
from service.stream.callbacks import undelivered

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@given(st.binary(max_size=200).map(lambda b: b.hex().encode()))
def test_the_official_library_believes_a_signature(body: bytes) -> None:
    now = int(datetime.now(UTC).timestamp())
    headers = signed(signing_key(SECRET), "log_17", now, body)
    Webhook(SECRET).verify(body, headers, json_parse=False)
    for name, wrong in (("webhook-id", "log_18"), ("webhook-timestamp", str(now - 1))):
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(body, headers | {name: wrong}, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers, json_parse=False)


def test_a_signature_is_that_of_the_specification() -> None:
    """The values that the reference implementations test themselves with."""
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "secret",
    [
        "", "whsec_", "whsec_short", SECRET.removeprefix("whsec_"), "whsec_" + "!" * 44, SECRET + "\n",
        "whsec_" + base64.b64encode(bytes(23)).decode(), "whsec_" + base64.b64encode(bytes(65)).decode(),
    ],
)  # fmt: skip
def test_what_is_no_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        signing_key(secret)


def test_attempts_go_on_for_a_day_and_grow_apart() -> None:
    least = [next_delay(n, 0.0) for n in range(1, len(DELAYS) + 1)]
    assert least == list(DELAYS)
    assert 24 * 3600 <= sum(DELAYS) <= 30 * 3600
    assert next_delay(len(DELAYS) + 1, 0.0) is None
    assert DELAYS[0] < (next_delay(1, 0.999) or 0) < DELAYS[1]


def test_what_the_receiver_asks_for_is_waited_for() -> None:
    assert next_delay(1, 0.0, 77.0) == 77.0
    assert next_delay(1, 0.0, 1.0) == DELAYS[0]
    assert next_delay(1, 0.0, 10.0**9) == MAX_DELAY
    now = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
    assert retry_after("120", now) == 120.0
    assert retry_after("Wed, 25 Nov 2026 12:01:00 GMT", now) == 60.0
    assert retry_after("Wed, 25 Nov 2020 12:01:00 GMT", now) == 0.0
    assert [retry_after(v, now) for v in (None, "soon", "-1", "1.5", "٣", "Wed, 99 Nov")] == [None] * 6
    assert retry_after("9" * 5000, now) is not None


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fd00::1", "fe80::1%eth0", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:a00:1::",
        "2001:0:1::1",
    ],
)  # fmt: skip
def test_what_is_behind_the_internet_is_not_called(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101"])
def test_the_internet_is(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("standing", "unless_read", "reason"),
    [
        (Standing(0, received=False, read=False), False, "no_device"),
        (Standing(0, received=False, read=False), True, "no_device"),
        (Standing(2, received=False, read=False), False, "not_received"),
        (Standing(2, received=True, read=False), False, None),
        (Standing(2, received=True, read=False), True, "not_read"),
        (Standing(2, received=True, read=True), True, None),
        (Standing(2, received=False, read=True), True, None),
        (Standing(2, received=False, read=True), False, None),
    ],
)
def test_a_producer_is_told_what_nobody_has(
    standing: Standing,
    unless_read: bool,  # noqa: FBT001 - a row of a table
    reason: str | None,
) -> None:
    assert undelivered(standing, unless_read=unless_read) == reason
