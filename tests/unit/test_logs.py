import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.observe import logs
from service.observe.logs import redact

BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
CANARY = "cAnArY"
JWT = f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ{CANARY}.sig-{CANARY}_x"
SECRETS = [
    f"GET /v1/ws?token={CANARY}&device=x",
    f"GET /v1/ws?device=x&token={JWT} HTTP/1.1",
    f"/v1/ws?token=tk_0a1b_{CANARY}",
    f"Authorization: Bearer {CANARY}",
    f"authorization: bearer tk_0a1b_{CANARY}",
    f"(b'authorization', b'Bearer {CANARY}')",
    f'{{"authorization": "Bearer {CANARY}"}}',
    f"Sec-WebSocket-Protocol: tidings.v1, bearer.{JWT}",
    f"bearer.{CANARY}",
    f"Bearer%20{CANARY}",
    f"cookie: session={JWT}",
    JWT.replace(".", "%2E"),
    f"/v1/ws%3Ftoken%3D{JWT}",
    f"tk_0a1b2c_{CANARY}",
    f"the key 'tk_0a1b2c_{CANARY}'",
    f"postgresql://tidings:{CANARY}@db/tidings",
    f"postgres://tidings:a:b/{CANARY}@db:5432/tidings?sslmode=require",
    f"postgresql+asyncpg://u:p@ss{CANARY}@h/d",
    f"postgresql://:{CANARY}@h/d",
    f"host=db password={CANARY} dbname=x",
    f"redis://:{CANARY}@h:6379/0",
]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Give pytest its root logger back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def configured(log_format: Literal["human", "json"], *secrets: str) -> io.StringIO:
    stream = io.StringIO()
    logs.configure("DEBUG", log_format, secrets=secrets, stream=stream)
    return stream


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_hidden(text: str) -> None:
    assert CANARY not in redact(text)


@pytest.mark.parametrize("log_format", ["human", "json"])
@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_hidden_wherever_it_is_logged(text: str, log_format: Literal["human", "json"]) -> None:
    stream = configured(log_format)
    log = logging.getLogger("uvicorn.error")
    log.info("in the message: " + text)  # noqa: G003
    log.info("%s in %r", "an argument", text)
    log.info("an extra", extra={"where": text, "deep": [{"er": text}]})
    log.debug("a stack", stack_info=True, extra={"also": text})
    try:
        int(text)
    except ValueError as error:
        log.exception("a traceback")
        log.exception("a chain", exc_info=RuntimeError(text, error))
    out = stream.getvalue()
    assert CANARY not in out
    assert out.count(logs.HIDDEN) >= 7
    assert "Traceback" in out


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_known_secrets_are_hidden_whatever_they_look_like(
    log_format: Literal["human", "json"],
) -> None:
    secret = f'an "odd" secret \\ with spaces {CANARY}'
    stream = configured(log_format, secret, secret[:10])
    logging.getLogger("x").info("here: %s", secret, extra={"there": secret})
    assert CANARY not in stream.getvalue()


def test_what_is_no_secret_stays() -> None:
    told = (
        "the token of user:alice was revoked; tk_0a1b expired; postgres://host/db at http://h:80/a@b;"
        " a.b.c eyJ refresh_token is a command"
    )
    assert redact(told) == told


def test_the_id_of_a_key_and_the_host_of_a_database_stay() -> None:
    assert redact("Bearer tk_0a1b_xyz") == f"Bearer tk_0a1b_{logs.HIDDEN}"
    assert redact("postgres://u:p@h/d") == f"postgres://u:{logs.HIDDEN}@h/d"


segments = st.text(BASE64URL, min_size=8, max_size=80)
around = st.text(max_size=30)


@given(around, segments, segments, segments, around)
def test_any_jwt_is_hidden(before: str, head: str, body: str, signature: str, after: str) -> None:
    stream = io.StringIO()
    handler = logs.Lines(stream)
    token = f"eyJ{head}.eyJ{body}.{signature}"
    for formatter in (logs.Human(), logs.Json()):
        handler.setFormatter(formatter)
        record = logging.LogRecord("x", logging.INFO, "f", 1, f"{before} {token} {after}", (), None)
        record.extra = {"deep": [token]}
        handler.handle(record)
    assert token not in stream.getvalue()
    assert f"eyJ{body}.{signature}" not in stream.getvalue()


@given(st.from_regex(r"[0-9a-z]{1,32}", fullmatch=True), segments, around)
def test_any_key_keeps_its_id_only(key_id: str, secret: str, around_it: str) -> None:
    for text in (f"tk_{key_id}_{secret}", f"Bearer tk_{key_id}_{secret}"):
        line = redact(f"{around_it} {text} {around_it}")
        assert f"tk_{key_id}_{logs.HIDDEN}" in line
        assert f"_{secret}" not in line


@given(st.text(), st.dictionaries(st.from_regex("x[a-z]{1,8}", fullmatch=True), st.text()))
def test_every_json_line_is_one_line_of_json(message: str, extra: dict[str, str]) -> None:
    stream = io.StringIO()
    handler = logs.Lines(stream)
    handler.setFormatter(logs.Json())
    record = logging.LogRecord("x", logging.INFO, "f", 1, "%s", (message,), None)
    vars(record).update(extra)
    handler.handle(record)
    assert len(stream.getvalue().splitlines()) == 1
    line = json.loads(stream.getvalue())
    assert line["message"] == message or redact(message) != message


@given(st.text())
def test_a_message_cannot_forge_another_line(message: str) -> None:
    stream = io.StringIO()
    handler = logs.Lines(stream)
    handler.setFormatter(logs.Human())
    record = logging.LogRecord("x", logging.INFO, "f", 1, "%s", (message,), None)
    record.extra = message
    handler.handle(record)
    assert len(stream.getvalue().splitlines()) == 1
    stream.getvalue().encode()


def test_json_has_the_fields_and_extras() -> None:
    stream = configured("json")
    logging.getLogger("tidings.x").warning("hello %s", "you", extra={"user": "alice", "time": "no"})
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "WARNING",
        "logger": "tidings.x",
        "message": "hello you",
        "user": "alice",
    }


def test_human_lines_show_extras() -> None:
    stream = configured("human")
    logging.getLogger("tidings.x").info("opened", extra={"user": "a b", "device": "phone"})
    assert stream.getvalue().endswith('INFO    tidings.x: opened user="a b" device=phone\n')


def test_a_line_that_cannot_be_rendered_shows_nothing_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = configured("human")
    logging.getLogger("x").info("%d", f"Bearer {CANARY}")
    assert "was lost: TypeError" in stream.getvalue()
    assert CANARY not in stream.getvalue() + "".join(capsys.readouterr())


def test_a_warning_that_comes_again_and_again_is_written_once_in_ten_seconds() -> None:
    stream = configured("json")

    def warn(at: float, error: str, level: int = logging.WARNING) -> None:
        record = logging.LogRecord("tidings.x", level, "x.py", 7, "away: %s", (error,), None)
        record.created = at
        logging.getLogger().handle(record)

    for at in (0.0, 0.2, 9.9, 10.0, 10.1):
        warn(at, "refused")
    warn(11, "another error")
    warn(12, "refused")
    warn(1, "refused")  # the clock was set back
    for at in (13, 14):
        warn(at, "an error is always written", logging.ERROR)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["message"].removeprefix("away: "), line.get("repeated")) for line in lines] == [
        ("refused", None), ("refused", 2), ("another error", None), ("refused", None),
        ("refused", None), *[("an error is always written", None)] * 2,
    ]  # fmt: skip


def test_auto_is_human_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    for terminal, kind in ((True, logs.Human), (False, logs.Json)):
        monkeypatch.setattr(stream, "isatty", lambda answer=terminal: answer)
        logs.configure("INFO", "auto", stream=stream)
        assert isinstance(logging.getLogger().handlers[0].formatter, kind)


def test_uvicorn_logs_through_the_same_handler_without_access_lines() -> None:
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).addHandler(logging.StreamHandler(sys.stdout))
    stream = configured("json")
    logging.getLogger("uvicorn.error").info("from uvicorn")
    logging.getLogger("uvicorn.access").info("GET /")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["from uvicorn"]


def test_configuring_again_leaves_one_handler() -> None:
    configured("json")
    stream = configured("json")
    logging.getLogger("x").info("once")
    assert len(stream.getvalue().splitlines()) == 1
    assert len(logging.getLogger().handlers) == 1
