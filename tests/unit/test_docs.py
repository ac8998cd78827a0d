"""What the documents say about the code, as far as it can be read off."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.app import create_app
from service.domain import commands, errors, problems
from service.observe.metrics import MULTIPROCESS, Metrics
from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PROTOCOL = ROOT / "docs/protocol.md"

_LINK = re.compile(r"\[[^\]\n]+\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_QUOTED = re.compile(r"`([^`]+)`")


def section(path: Path, heading: str) -> str:
    """Return what stands under a heading, up to the next one of whatever level."""
    _, found, rest = path.read_text().partition(f"\n{heading}\n")
    assert found, f"{path.name} has no {heading!r}"
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables in ``text``, without their headers."""
    for table in re.findall(r"^\|.*(?:\n\|.*)+", text, re.MULTILINE):
        for line in table.splitlines()[2:]:
            yield [cell.strip() for cell in line.strip("|").split("|")]


def quoted(cell: str) -> list[str]:
    return _QUOTED.findall(cell)


def calls(*folders: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in these parts of the service, with the bare name of what is called."""
    for folder in folders:
        for path in sorted((ROOT / "service" / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    called = node.func
                    yield getattr(called, "attr", getattr(called, "id", "")), node


def constants(node: ast.AST, kind: type) -> set[Any]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and type(n.value) is kind}


def test_there_are_documents() -> None:
    named = {path.relative_to(ROOT).as_posix() for path in DOCS}
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/protocol.md"} <= named


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_relative_link_resolves(path: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", path.read_text())):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_that_is_named_exists(path: Path) -> None:
    for name in quoted(_FENCE.sub("", path.read_text())):
        if re.fullmatch(r"(service|migrations|tests|docs)(/[\w./]+)?", name):
            assert (ROOT / name).exists(), name


def defined(path: Path) -> set[str]:
    """Return the names of a module's functions and classes, and ``Class.method`` for each method."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{method.name}" for method in inner}
    return found


def test_every_function_on_the_way_of_an_event_exists() -> None:
    text = " ".join((ROOT / "docs/architecture.md").read_text().split())
    placed = re.findall(r"`(service/[\w/]+\.py)` `([\w.]+)`", text)
    assert len(placed) > 20
    for file, name in placed:
        assert name in defined(ROOT / file), f"{file} {name}"
    everywhere = set().union(*(defined(path) for path in (ROOT / "service").rglob("*.py")))
    methods = re.findall(r"`([A-Z]\w+\.\w+|_[a-z_]+)`", text)
    for name in methods:
        assert name in everywhere, name


def test_every_variable_that_is_named_exists() -> None:
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    for source in [*(ROOT / "service/cli").glob("*.py"), ROOT / "tests/conftest.py"]:
        known |= set(re.findall(rf'"({PREFIX}[A-Z_]+)"', source.read_text()))
    for path in DOCS:
        assert set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", path.read_text())) <= known, path.name


def test_every_limit_names_its_default() -> None:
    shown = {"32 KiB": 32 * 1024, "1 MiB": 2**20, "64 KiB": 2**16, "256 KiB": 2**18, "30 days": 30 * 86400}
    units = {"day": 86400, "days": 86400, "s": 1}
    checked = 0
    for _, default, setting, *_ in rows(section(PROTOCOL, "## Limits")):
        if not quoted(setting) or "heartbeats" in default:
            continue
        number, _, unit = default.removesuffix(" a second").partition(" ")
        value = shown.get(default, int(number.replace(",", "")) * units.get(unit, 1))
        field = Settings.model_fields[quoted(setting)[0].removeprefix(PREFIX).lower()]
        assert field.default == value, setting
        checked += 1
    assert checked >= 10


def sent_types() -> set[str]:
    """Return the types of the frames that the code makes."""
    source = (ROOT / "service/domain/frames.py").read_text()
    found = set(re.findall(r'(?:"type": ?|tag=)"(\w+)"', source))
    for name, call in calls("domain", "gateway", "stream"):
        if name == "frame" and call.args:
            found |= constants(call.args[0], str)
    return found


def test_the_protocol_has_every_frame() -> None:
    table = rows(section(PROTOCOL, "### Frames from the server"))
    assert {name for row in table for name in quoted(row[0])} == sent_types()


def test_the_protocol_has_every_command_and_its_fields() -> None:
    documented = {quoted(row[0])[0]: row[1] for row in rows(section(PROTOCOL, "### Commands"))}
    kinds = {kind.__struct_config__.tag: kind for kind in commands.AnyCommand.__args__}
    assert documented.keys() == kinds.keys()
    for name, kind in kinds.items():
        fields = {f.name: f.required for f in msgspec.structs.fields(kind) if f.name != "ref"}
        required = {field: mark == "" for field, mark in re.findall(r"`(\w+)`(\??)", documented[name])}
        assert required == fields, name


def refusals(kind: type[errors.TidingsError]) -> Iterator[type[errors.TidingsError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from refusals(child)


def test_the_protocol_has_every_error_code_with_its_status() -> None:
    documented = {quoted(row[0])[0]: int(row[1]) for row in rows(section(PROTOCOL, "## Errors"))}
    assert documented == {kind.code: problems.status_of(kind("")) for kind in refusals(errors.TidingsError)}


def close_codes() -> set[int]:
    """Return the close codes that the code knows, but for 1000, which is also a round number."""
    found = {
        code
        for path in [*(ROOT / "service/gateway").glob("*.py"), ROOT / "service/stream/control.py"]
        for code in constants(ast.parse(path.read_text()), int)
    }
    for name, call in calls("domain"):
        if name == "ProtocolViolation":
            found |= constants(call, int)
    return {code for code in found if 1000 < code <= 1015 or 4000 <= code < 5000}


def test_the_protocol_has_every_close_code() -> None:
    table = list(rows(section(PROTOCOL, "### Close codes")))
    assert {int(code) for row in table for code in row[0].split(", ")} == close_codes() | {1000}


def routes() -> set[str]:
    paths = create_app(Settings(_env_file=None)).openapi()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def test_the_protocol_has_every_http_call() -> None:
    assert {quoted(row[0])[0] for row in rows(section(PROTOCOL, "## HTTP"))} == routes()


def test_operations_has_every_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MULTIPROCESS, raising=False)
    text = Metrics().render()[0].decode()
    named = set(re.findall(r"^# TYPE (tidings_\w+)", text, re.MULTILINE))
    made = {name for name in named if not name.endswith("_created")}
    assert {quoted(row[0])[0] for row in rows(section(ROOT / "docs/operations.md", "## Metrics"))} == made
