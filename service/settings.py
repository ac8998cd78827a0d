"""Every setting, its meaning and its bounds. ``.env.example`` lists the same in the same order."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self, cast
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.domain.errors import TidingsError
from service.domain.webhooks import signing_key

PREFIX: Final = "TIDINGS_"
HMAC: Final = ("HS256", "HS384", "HS512")
Algorithm = Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_COOKIE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token (RFC 6265 §4.1.1)
_CLAIM = re.compile(r"[^.\s]+(\.[^.\s]+)*")
_DATABASE_SCHEMES = ("postgres", "postgresql", "postgresql+asyncpg")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


class InvalidSettings(TidingsError):
    """The environment cannot be served from; the message has one line for each problem."""

    code = "invalid_settings"


class Settings(BaseSettings):
    """Read from the environment (``TIDINGS_…``) and ``.env``; sizes in bytes, times in seconds.

    An empty value counts as unset. Raises pydantic's ValidationError; ``load`` is the way in that
    names the variables.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    # Where the log lives
    database_url: SecretStr | None = None
    data_dir: Path | None = None
    pool_size: Annotated[int, Field(ge=4)] = 8
    append_timeout: PositiveFloat = 5.0
    sql_notify: bool = True
    redis_url: SecretStr | None = None

    # Who is believed
    jwt_secret: SecretStr | None = None
    jwt_other_secret: SecretStr | None = None
    jwt_public_key: str | None = None
    jwks_url: str | None = None
    jwt_algorithm: Algorithm = "HS256"
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    token_max_age: PositiveFloat = 30 * 86400.0
    claim_audience: str = "aud"
    claim_user: str = "sub"
    claim_rooms: str = "rooms"
    claim_join: str = "join"
    claim_publish: str = "publish"
    admin_key: SecretStr | None = None
    cookie: str | None = None
    origins: Annotated[tuple[str, ...], NoDecode] = ()

    # Limits
    max_data: PositiveInt = 32 * 1024
    max_body: PositiveInt = 1024 * 1024
    max_message: PositiveInt = 64 * 1024
    max_connections: PositiveInt = 100_000
    max_connections_per_user: PositiveInt = 20
    max_devices_per_user: PositiveInt = 100
    max_rooms_per_user: PositiveInt = 1000
    commands_per_second: PositiveInt = 50
    key_rate: Annotated[float, Field(ge=0, le=1_000_000)] = 0
    user_rate: Annotated[float, Field(ge=0, le=1_000_000)] = 20
    user_burst: PositiveInt = 100
    write_buffer: PositiveInt = 256 * 1024
    recent_bytes: PositiveInt = 64 * 1024 * 1024

    # Intervals
    heartbeat: PositiveFloat = 25.0
    ack_interval: PositiveFloat = 1.0
    drain_timeout: PositiveFloat = 20.0
    drain_grace: Annotated[float, Field(ge=0)] = 0.0
    lease: PositiveFloat = 10.0
    presence_linger: Annotated[float, Field(ge=0)] = 2.0
    device_expiry: PositiveFloat = 90 * 86400.0
    id_window: PositiveFloat = 86400.0
    retention: Annotated[float, Field(ge=0)] = 30 * 86400.0
    retention_bytes: PositiveInt | None = None
    schedule_horizon: PositiveFloat = 90 * 86400.0
    audit_retention: PositiveFloat = 400 * 86400.0

    # Who is told of what nobody has received
    callback_url: str | None = None
    callback_secret: SecretStr | None = None
    callback_allow_private: bool = False

    # What is told
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "human", "json"] = "auto"
    metrics_public: bool = False
    admin_page: bool = True

    # The development profile; set by `tidings serve --dev`
    dev: bool = False

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr | None) -> SecretStr | None:
        scheme, separator, _ = value.get_secret_value().partition("://") if value else ("", "", "")
        if value and not (separator and scheme in _DATABASE_SCHEMES):
            raise ValueError("must start with postgresql://, postgres:// or postgresql+asyncpg://")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return value

    @field_validator("jwt_secret", "jwt_other_secret")
    @classmethod
    def _secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value and len(value.get_secret_value().encode()) < 32:
            raise ValueError("must have at least 32 bytes")
        if value and "-----BEGIN" in value.get_secret_value():
            raise ValueError("is a PEM key: that belongs into TIDINGS_JWT_PUBLIC_KEY")
        return value

    @field_validator("jwt_public_key")
    @classmethod
    def _pem(cls, value: str | None) -> str | None:
        r"""Return the PEM text: as given (a line break may be written as ``\n``), or read."""
        if value is None:
            return None
        text = value.replace("\\n", "\n") if "-----BEGIN" in value else _read_text(Path(value))
        _load_public_key(text)
        return text

    @field_validator("jwks_url")
    @classmethod
    def _jwks(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "https://unset")
        loopback = parts.hostname in {"localhost", "127.0.0.1", "::1"}
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
            raise ValueError("must be an https:// URL (http:// only to this machine)")
        return value

    @field_validator("claim_audience", "claim_user", "claim_rooms", "claim_join", "claim_publish")
    @classmethod
    def _claim(cls, value: str) -> str:
        if not _CLAIM.fullmatch(value):
            raise ValueError("must be a claim's name, or a dotted path to it")
        return value

    @field_validator("admin_key")
    @classmethod
    def _admin_key(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value() if value else None
        if key is not None and (len(key) < 24 or not re.fullmatch("[!-~][ -~]+[!-~]", key)):
            # It travels in a header, as `Authorization: Bearer <key>`.
            raise ValueError("must have at least 24 characters of printable ASCII, no space at its ends")
        return value

    @field_validator("cookie")
    @classmethod
    def _cookie(cls, value: str | None) -> str | None:
        if value is not None and not _COOKIE.fullmatch(value):
            raise ValueError("must be the name of a cookie")
        return value

    @field_validator("origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [part.strip() for part in value.split(",") if part.strip()]

    @field_validator("origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_origin, value))

    @field_validator("callback_url")
    @classmethod
    def _callback(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "https://unset")
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            raise ValueError("must be an https:// URL without a user")
        return value

    @field_validator("callback_secret")
    @classmethod
    def _callback_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            signing_key(value.get_secret_value())
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _level(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [*self._key_problems(), *self._other_problems()]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def _keys(self) -> list[str]:
        """Return the names of the variables that say which key client tokens are signed with."""
        given = {
            "JWT_SECRET": self.jwt_secret,
            "JWT_PUBLIC_KEY": self.jwt_public_key,
            "JWKS_URL": self.jwks_url,
        }
        return [f"{PREFIX}{name}" for name, value in given.items() if value is not None]

    def _key_problems(self) -> list[str]:
        if len(self._keys) > 1:
            return [f"{' and '.join(self._keys)}: only one of them may be set"]
        problems = []
        if self.jwt_other_secret and not self.jwt_secret:
            problems.append("TIDINGS_JWT_OTHER_SECRET: goes with TIDINGS_JWT_SECRET only")
        if self.jwt_secret and self.jwt_algorithm not in HMAC:
            problems.append(
                f"TIDINGS_JWT_ALGORITHM: {self.jwt_algorithm} needs TIDINGS_JWT_PUBLIC_KEY or"
                " TIDINGS_JWKS_URL, not TIDINGS_JWT_SECRET"
            )
        if (self.jwt_public_key or self.jwks_url) and self.jwt_algorithm in HMAC:
            problems.append(
                f"TIDINGS_JWT_ALGORITHM: {self.jwt_algorithm} needs TIDINGS_JWT_SECRET;"
                f" with {self._keys[0]} it must be an RS or ES algorithm"
            )
        elif self.jwt_public_key and not _fits(self.jwt_public_key, self.jwt_algorithm):
            problems.append(f"TIDINGS_JWT_PUBLIC_KEY: is no key for {self.jwt_algorithm}")
        if self.jwks_url and not self.jwt_audience:
            # An identity provider signs tokens for other services with the same keys.
            problems.append("TIDINGS_JWT_AUDIENCE: must be set with TIDINGS_JWKS_URL")
        return problems

    def _other_problems(self) -> list[str]:
        problems = []
        if self.cookie and not self.origins:
            # A browser sends the cookie from any page: only the Origin tells whose page it is.
            problems.append("TIDINGS_ORIGINS: must be set with TIDINGS_COOKIE")
        if self.max_data > self.max_body:
            problems.append("TIDINGS_MAX_DATA: must not be more than TIDINGS_MAX_BODY")
        if 0 < self.retention < self.id_window:
            # A repeated id is answered with the original, which has to be there.
            problems.append("TIDINGS_RETENTION: must not be less than TIDINGS_ID_WINDOW")
        return problems + self._callback_problems()

    def _callback_problems(self) -> list[str]:
        problems = []
        if (self.callback_url is None) != (self.callback_secret is None):
            missing = "SECRET" if self.callback_secret is None else "URL"
            problems.append(f"TIDINGS_CALLBACK_{missing}: TIDINGS_CALLBACK_URL and its secret go together")
        if (
            self.callback_url
            and not self.callback_url.startswith("https:")
            and not self.callback_allow_private
        ):
            problems.append("TIDINGS_CALLBACK_URL: must be https://, without TIDINGS_CALLBACK_ALLOW_PRIVATE")
        return problems

    def check_complete(self) -> None:
        """Raise InvalidSettings unless what has no default, but serving needs, is there."""
        problems = []
        if not self._keys:
            problems.append(
                "TIDINGS_JWT_SECRET: must be set (or TIDINGS_JWT_PUBLIC_KEY, or TIDINGS_JWKS_URL)"
            )
        if self.database_url is None and self.data_dir is None:
            problems.append("TIDINGS_DATABASE_URL: must be set (or TIDINGS_DATA_DIR, to embed PostgreSQL)")
        if problems:
            raise InvalidSettings("\n".join(problems))

    def secrets(self) -> list[str]:
        """Return the values that no log line may show."""
        hidden = (
            self.jwt_secret, self.jwt_other_secret, self.admin_key, self.database_url, self.redis_url,
            self.callback_secret,
        )  # fmt: skip
        return [value.get_secret_value() for value in hidden if value is not None]


def load() -> Settings:
    """Return the settings of this process; raises InvalidSettings that names each wrong variable.

    They may still lack what only serving needs: see ``Settings.check_complete``.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = (_problem(cast("dict[str, object]", e)) for e in error.errors())
        raise InvalidSettings("\n".join(problems)) from None


def _problem(error: dict[str, object]) -> str:
    """Return the line for one of pydantic's errors; it never contains the value."""
    message = str(error["msg"]).removeprefix("Value error, ")
    location = cast("tuple[str | int, ...]", error["loc"])
    # What the model itself raised has no location and names its variables already.
    return f"{PREFIX}{str(location[0]).upper()}: {message}" if location else message


def _origin(text: str) -> str:
    """Return ``text`` as a browser would send it in Origin; raises ValueError if it is none."""
    match = _ORIGIN.fullmatch(text.lower())
    if not match:
        raise ValueError("must list origins as scheme://host[:port], without a path, by comma")
    scheme, host, port = match.groups()
    return f"{scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else "")


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        raise ValueError("must be PEM text, or the path of a readable PEM file") from None


def _load_public_key(pem: str) -> RSAPublicKey | EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("must be a public key in PEM (-----BEGIN PUBLIC KEY-----)") from None
    if isinstance(key, RSAPublicKey) and key.key_size >= 2048:
        return key
    if isinstance(key, EllipticCurvePublicKey):
        return key
    raise ValueError("must be an RSA key of at least 2048 bits or an elliptic curve's")


def _fits(pem: str, algorithm: str) -> bool:
    """Tell whether the key is of the kind that ``algorithm`` verifies with (RFC 7518 §3)."""
    key = _load_public_key(pem)
    if isinstance(key, RSAPublicKey):
        return algorithm.startswith("RS")
    return key.curve.name == _CURVES.get(algorithm)
