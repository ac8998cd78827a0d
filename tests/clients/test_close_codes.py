"""What the protocol's table says that the clients do at each close code, against what decides it in them."""

import json
from pathlib import Path
from random import Random

import pytest

from tests.clients import node
from tests.clients.programs import Programs
from tests.unit.test_docs import PROTOCOL, rows, section
from tidings_client.course import Course, Ending
from tidings_client.errors import Closed, Unauthorized

TABLE = {
    int(code): row[3] for row in rows(section(PROTOCOL, "### Close codes")) for code in row[0].split(", ")
}
BY_THE_SERVER = sorted(code for code in TABLE if code not in {1000, 1001, 1005})


def documented(code: int) -> str:
    """Return the JavaScript client's word for it."""
    said = TABLE[code]
    if said.startswith("ask for a token once"):
        return "renew"
    if said.startswith("give up: "):
        return said.removeprefix("give up: ").strip("`")
    assert said.startswith("come back"), said
    return "rest" if "5 to 60 s" in said else "reconnect"


async def test_javascript(programs: Programs, tmp_path: Path) -> None:
    folder = node.install(tmp_path)
    (folder / "decide.mjs").write_text(f"""
        import {{ verdict }} from './node_modules/tidings-client/dist/decisions.js'
        const decided = {BY_THE_SERVER}.map((code) => [code, verdict(code, true), verdict(code, false)])
        console.log(JSON.stringify(decided))
    """)
    decided = json.loads(await (await programs.node("decide.mjs", folder=folder)).end())
    assert [[code, documented(code)] for code in BY_THE_SERVER] == [each[:2] for each in decided]
    assert [each[0] for each in decided if each[1] != each[2]] == [4001]
    assert [each[2] for each in decided if each[0] == 4001] == ["unauthorized"]


@pytest.mark.parametrize("code", BY_THE_SERVER)
def test_python(code: int) -> None:
    def after(course: Course) -> float:
        return course.after(Ending(code, "told"))

    course = Course(Random(1), renewable=True)
    match documented(code):
        case "closed":
            with pytest.raises(Closed):
                after(course)
        case "unauthorized":
            with pytest.raises(Unauthorized):
                after(course)
        case "renew":
            assert after(course) == 0
            with pytest.raises(Unauthorized):
                after(course)
            course.welcomed()
            course.live()
            assert after(course) == 0
            with pytest.raises(Unauthorized):
                after(Course(Random(1), renewable=False))
        case "rest":
            assert all(5 <= after(course) <= 60 for _ in range(100))
        case _:
            pauses = [after(course) for _ in range(100)]
            assert pauses[0] <= 0.5
            assert 10 < max(pauses) <= 30
