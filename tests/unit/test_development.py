import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.cli import development
from service.settings import Settings, load


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TIDINGS_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def filled(**given: str) -> dict[str, str]:
    environment = {f"TIDINGS_{name.upper()}": value for name, value in given.items()}
    development.fill_in(environment)
    return environment


def test_it_fills_in_what_serving_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = filled()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load()
    settings.check_complete()
    assert settings.data_dir == development.DATA_DIR
    assert settings.dev
    assert settings.metrics_public


def test_it_overrides_nothing(tmp_path: Path) -> None:
    given = {
        "data_dir": str(tmp_path / "elsewhere"),
        "jwt_secret": "mine" * 10,
        "admin_key": "mine" * 10,
        "metrics_public": "0",
        "dev": "0",
        "drain_timeout": "7",
    }
    assert filled(**given) == {f"TIDINGS_{name.upper()}": value for name, value in given.items()}


def test_it_overrides_nothing_in_the_file_either(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TIDINGS_ADMIN_KEY=from-the-file-that-is-here\n")
    assert "TIDINGS_ADMIN_KEY" not in filled()
    assert "TIDINGS_JWT_SECRET" in filled()


def test_an_empty_variable_is_filled_in() -> None:
    assert len(filled(jwt_secret="")["TIDINGS_JWT_SECRET"]) >= 32


@pytest.mark.parametrize("name", ["jwt_public_key", "jwks_url"])
def test_another_key_needs_no_secret_beside_it(name: str) -> None:
    assert "TIDINGS_JWT_SECRET" not in filled(**{name: "given"})


def test_secrets_are_made_once_for_each_data_directory(tmp_path: Path) -> None:
    here, again = filled(), filled()
    there = filled(data_dir=str(tmp_path / "there"))
    for name in ("TIDINGS_JWT_SECRET", "TIDINGS_ADMIN_KEY"):
        assert here[name] == again[name] != there[name]


def test_secrets_are_for_their_owner_only() -> None:
    before = os.umask(0)
    try:
        filled()
    finally:
        os.umask(before)
    file = development.DATA_DIR / "secrets.env"
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in file.parent.iterdir()) == [".gitignore", "secrets.env"]


def test_who_starts_at_the_same_time_gets_the_same_secrets() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: filled()["TIDINGS_ADMIN_KEY"], range(8)))
    assert len(set(made)) == 1


def test_what_it_tells_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in filled().items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.admin_key
    told = development.welcome(settings, "http://127.0.0.1:8000")
    lines = [line.strip() for line in told.splitlines()]
    assert lines[3] == "Open http://127.0.0.1:8000/demo"
    for everywhere in ("0.0.0.0", "[::]"):
        assert "Open http://127.0.0.1:8000/demo" in development.welcome(settings, f"http://{everywhere}:8000")
    assert any(line.count(".") == 2 and line.startswith("eyJ") for line in lines)
    assert settings.admin_key.get_secret_value() in lines
    (curl,) = (line for line in lines if line.startswith("curl"))
    assert "http://127.0.0.1:8000/v1/events" in curl
    assert '"to": "user:alice"' in curl
    assert lines[-1].endswith("listen --user alice --url http://127.0.0.1:8000")


def test_it_leads_to_no_demonstration_that_could_not_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"jwks_url": "https://id.example/keys", "jwt_algorithm": "RS256", "jwt_audience": "tidings"}
    given = {f"TIDINGS_{name.upper()}": value for name, value in given.items()}
    for name, value in {**given, **filled(jwks_url="given")}.items():
        monkeypatch.setenv(name, given.get(name, value))
    assert "/demo" not in development.welcome(load(), "http://127.0.0.1:8000")
