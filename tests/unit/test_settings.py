import itertools
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.settings import InvalidSettings, Settings, load

EXAMPLE = Path(__file__).parents[2] / ".env.example"
SECRET = "s" * 31 + "!"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TIDINGS_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def load_with(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"TIDINGS_{name.upper()}", value)
    return load()


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public.decode()


@pytest.fixture(scope="module")
def p256() -> str:
    return pem_of(ec.generate_private_key(ec.SECP256R1()))


def test_the_example_names_every_setting_in_order_with_a_comment() -> None:
    lines = EXAMPLE.read_text().splitlines()
    names = [line.split("=")[0] for line in lines if line and not line.startswith("#")]
    assert names == [f"TIDINGS_{name.upper()}" for name in Settings.model_fields]
    for before, line in itertools.pairwise(lines):
        assert not line.startswith("TIDINGS_") or re.match(r"# [A-Zh`]", before), line


def test_the_example_gives_the_defaults() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert Settings(_env_file=EXAMPLE).model_dump() == defaults


def test_an_empty_environment_is_not_enough_to_serve() -> None:
    with pytest.raises(InvalidSettings) as refused:
        load().check_complete()
    lines = str(refused.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["TIDINGS_JWT_SECRET", "TIDINGS_DATABASE_URL"]


def test_what_serving_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    load_with(monkeypatch, jwt_secret=SECRET, data_dir="x").check_complete()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"pool_size": "0"}, "POOL_SIZE"),
        ({"pool_size": "many"}, "POOL_SIZE"),
        ({"heartbeat": "-1"}, "HEARTBEAT"),
        ({"heartbeat": "inf"}, "HEARTBEAT"),
        ({"heartbeat": "nan"}, "HEARTBEAT"),
        ({"drain_grace": "-0.1"}, "DRAIN_GRACE"),
        ({"log_level": "LOUD"}, "LOG_LEVEL"),
        ({"log_format": "xml"}, "LOG_FORMAT"),
        ({"metrics_public": "perhaps"}, "METRICS_PUBLIC"),
        ({"database_url": "mysql://u:hunter22@h/d"}, "DATABASE_URL"),
        ({"database_url": "hunter22"}, "DATABASE_URL"),
        ({"jwt_secret": "hunter22"}, "JWT_SECRET"),
        ({"jwt_secret": "-----BEGIN PUBLIC KEY----- hunter22"}, "JWT_SECRET"),
        ({"jwt_secret": SECRET, "jwt_other_secret": "hunter22"}, "JWT_OTHER_SECRET"),
        ({"jwt_other_secret": SECRET}, "JWT_OTHER_SECRET"),
        ({"jwt_algorithm": "none"}, "JWT_ALGORITHM"),
        ({"jwt_secret": SECRET, "jwt_algorithm": "RS256"}, "JWT_ALGORITHM"),
        ({"jwks_url": "https://idp/k", "jwt_audience": "me"}, "JWT_ALGORITHM"),
        ({"jwks_url": "https://idp/k", "jwt_algorithm": "RS256"}, "JWT_AUDIENCE"),
        ({"jwks_url": "http://idp/k"}, "JWKS_URL"),
        ({"jwks_url": "file:///etc/passwd"}, "JWKS_URL"),
        ({"jwt_public_key": "/nowhere/key.pem"}, "JWT_PUBLIC_KEY"),
        ({"jwt_public_key": "-----BEGIN PUBLIC KEY-----\nxx\n"}, "JWT_PUBLIC_KEY"),
        ({"claim_user": "a..b"}, "CLAIM_USER"),
        ({"admin_key": "hunter22"}, "ADMIN_KEY"),
        ({"admin_key": "hunter22 and a space at its end "}, "ADMIN_KEY"),
        ({"cookie": "a b", "origins": "https://a"}, "COOKIE"),
        ({"cookie": "session"}, "ORIGINS"),
        ({"origins": "*"}, "ORIGINS"),
        ({"origins": "null"}, "ORIGINS"),
        ({"origins": "https://a.example/path"}, "ORIGINS"),
        ({"origins": "https://a.example/"}, "ORIGINS"),
        ({"origins": "https://*.example"}, "ORIGINS"),
        ({"origins": "https://user@a.example"}, "ORIGINS"),
        ({"max_data": "10", "max_body": "9"}, "MAX_DATA"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], named: str
) -> None:
    with pytest.raises(InvalidSettings) as refused:
        load_with(monkeypatch, **values)
    assert str(refused.value).startswith(f"TIDINGS_{named}: ")
    assert "hunter22" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert refused.value.__cause__ is None


def test_every_problem_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettings) as refused:
        load_with(monkeypatch, pool_size="0", heartbeat="0")
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == [
        "TIDINGS_POOL_SIZE",
        "TIDINGS_HEARTBEAT",
    ]


def test_only_one_key_is_accepted(monkeypatch: pytest.MonkeyPatch, p256: str) -> None:
    with pytest.raises(InvalidSettings, match="TIDINGS_JWT_SECRET and TIDINGS_JWT_PUBLIC_KEY: "):
        load_with(monkeypatch, jwt_secret=SECRET, jwt_public_key=p256)


@pytest.mark.parametrize("algorithm", ["RS256", "ES384"])
def test_the_public_key_must_be_of_the_algorithms_kind(
    monkeypatch: pytest.MonkeyPatch, p256: str, algorithm: str
) -> None:
    with pytest.raises(InvalidSettings, match=f"TIDINGS_JWT_PUBLIC_KEY: is no key for {algorithm}"):
        load_with(monkeypatch, jwt_public_key=p256, jwt_algorithm=algorithm)


def test_a_weak_rsa_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    weak = pem_of(rsa.generate_private_key(65537, 1024))
    with pytest.raises(InvalidSettings, match="2048"):
        load_with(monkeypatch, jwt_public_key=weak, jwt_algorithm="RS256")


def test_a_public_key_is_text_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, p256: str) -> None:
    (tmp_path / "key.pem").write_text(p256)
    for given in (p256, p256.replace("\n", "\\n"), str(tmp_path / "key.pem")):
        settings = load_with(monkeypatch, jwt_public_key=given, jwt_algorithm="ES256")
        assert settings.jwt_public_key == p256


def test_jwks_over_http_is_for_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {"jwt_audience": "me", "jwt_algorithm": "RS256"}
    assert load_with(monkeypatch, jwks_url="http://127.0.0.1:9/k", **rest).jwks_url


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_spelling_of_a_postgres_url(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    assert load_with(monkeypatch, database_url=f"{scheme}://h/d").database_url


def test_origins_are_as_a_browser_sends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "https://App.example:443, http://localhost:3000,capacitor://localhost,http://[::1]:80"
    assert load_with(monkeypatch, origins=given).origins == (
        "https://app.example",
        "http://localhost:3000",
        "capacitor://localhost",
        "http://[::1]",
    )


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TIDINGS_POOL_SIZE=3\nTIDINGS_HEARTBEAT=7\n")
    settings = load_with(monkeypatch, pool_size="4")
    assert (settings.pool_size, settings.heartbeat) == (4, 7.0)


def test_secrets_do_not_show_in_a_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_with(
        monkeypatch, jwt_secret=SECRET, jwt_other_secret=f"other {SECRET}", admin_key="k" * 24,
        database_url="postgres://u:pw@h/d",
    )  # fmt: skip
    assert len(settings.secrets()) == 4
    assert not any(secret in repr(settings) for secret in settings.secrets())


def test_events_are_kept_for_as_long_as_their_ids_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettings, match="TIDINGS_RETENTION: must not be less than TIDINGS_ID_WINDOW"):
        load_with(monkeypatch, retention="86399")
    assert load_with(monkeypatch, retention="86400").retention == 86400
    assert load_with(monkeypatch, retention="0").retention == 0  # for ever
    assert load_with(monkeypatch, retention="", retention_bytes="").retention_bytes is None
    with pytest.raises(InvalidSettings, match="TIDINGS_RETENTION"):
        load_with(monkeypatch, retention="-1")
