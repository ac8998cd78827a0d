"""The JavaScript client's own tests, those of its package, and how much of it there is."""

import gzip
import json
import os
import re
import subprocess
from pathlib import Path

from tests.clients.conftest import PACKAGE

COPY = Path(__file__).parents[2] / "service" / "web" / "static" / "client"
KIB = 1024
CORE_MAY_WEIGH = 6 * KIB

CONSUMER = """
import { connect, TidingsError, type Options, type Tidings, type TidingsEvent } from 'tidings-client'
import { sse } from 'tidings-client/sse'
import { shared } from 'tidings-client/tabs'
import type { TidingsBell } from 'tidings-client/bell'
import { useEvent, useTidings, useTidingsState } from 'tidings-client/react'

const options: Options = { url: 'https://push.example', getToken: async () => 'jwt', fallback: sse() }
const tidings: Tidings = connect(options)
const off: () => void = tidings.on('order.*', async ({ data, time }: TidingsEvent) => void [data, time])
tidings.watch('gap', ({ from, to, reason }) => void [from + to, reason === 'retention'])
tidings.watch('read', ({ unread }) => void (unread + 1))
tidings.watch('error', (error) => error instanceof TidingsError && error.retryAfterMs)
for await (const event of tidings) void event.type.length
const { position } = await tidings.publish('room:a', 'note', { any: 'JSON' }, { echo: false })
void [off, position, useEvent, useTidings, useTidingsState]
const common: Tidings = shared({ url: 'https://push.example', user: 'alice' })
declare const bell: TidingsBell
Object.assign(bell, { client: common, getToken: () => 'jwt' })
bell.render = ({ type, read }) => (read ? undefined : type)
bell.texts = { title: 'Mitteilungen' }
// @ts-expect-error: there is no such notice
tidings.watch('nothing', () => {})
// @ts-expect-error: a url is needed
connect({})
"""

PLAIN = """
import assert from 'node:assert'
import WebSocket from 'ws'
import { connect, TidingsError } from 'tidings-client'
import { sse } from 'tidings-client/sse'

const tidings = connect({ url: 'http://127.0.0.1:9', token: 'x', WebSocket, fallback: sse() })
const refused = tidings.rooms().catch((error) => error)
tidings.close()
assert.equal(tidings.state, 'closed')
const error = await refused
assert.ok(error instanceof TidingsError && error.code === 'closed')
"""


def command(node: str, *arguments: str | Path, cwd: Path = PACKAGE) -> str:
    path = f"{Path(node).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        arguments, cwd=cwd, capture_output=True, text=True, check=False, timeout=100,
        env={**os.environ, "PATH": path, "npm_config_offline": "true", "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


def tsc(node: str, *arguments: str | Path, cwd: Path = PACKAGE) -> str:
    return command(node, PACKAGE / "node_modules" / ".bin" / "tsc", *arguments, cwd=cwd)


def test_what_it_decides_by_itself(node: str) -> None:
    said = command(node, node, "--test", "--test-reporter=tap", "test/")
    counts = {name: int(count) for name, count in re.findall(r"^# (\w+) (\d+)$", said, re.MULTILINE)}
    assert counts["pass"] == counts["tests"] > 25, said


def test_what_the_service_hands_out_is_what_is_written(node: str, tmp_path: Path) -> None:
    tsc(node, "-p", ".", "--outDir", tmp_path)
    fresh = {path.name: path.read_text() for path in tmp_path.glob("*.js")}
    assert fresh == {path.name: path.read_text() for path in COPY.glob("*")}, 'run "make clients"'
    assert fresh == {path.name: path.read_text() for path in (PACKAGE / "dist").glob("*.js")}, (
        'run "make clients"'
    )


def test_the_core_is_small(node: str) -> None:
    esbuild = PACKAGE / "node_modules" / ".bin" / "esbuild"
    core = command(node, esbuild, "dist/index.js", "--bundle", "--minify", "--format=esm")
    assert len(gzip.compress(core.encode(), 9)) <= CORE_MAY_WEIGH


def test_the_package_is_whole(node: str, tmp_path: Path) -> None:
    """Packed, put where a consumer has it, and used: with TypeScript, and by plain Node."""
    npm = str(Path(node).with_name("npm"))
    packed = json.loads(
        command(node, npm, "pack", "--json", "--ignore-scripts", "--pack-destination", tmp_path)
    )
    listing = packed[0] if isinstance(packed, list) else packed["tidings-client"]
    names = {entry["path"] for entry in listing["files"]}
    exports = json.loads((PACKAGE / "package.json").read_text())["exports"].values()
    sources = {path.stem for path in (PACKAGE / "src").iterdir()}
    targets = {Path(target) for export in exports for target in export.values()}
    built = {str(target) for target in targets if target.name.partition(".")[0] in sources}
    assert {"README.md", "package.json"} | built <= names
    assert {name for name in names if not name.startswith("dist/")} == {"README.md", "package.json"}
    home = tmp_path / "node_modules" / "tidings-client"
    home.mkdir(parents=True)
    command(node, "tar", "-xzf", tmp_path / listing["filename"], "-C", home, "--strip-components=1")
    for name in ("ws", "react", "@types", "csstype"):
        (tmp_path / "node_modules" / name).symlink_to(PACKAGE / "node_modules" / name)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "consumer.ts").write_text(CONSUMER)
    for resolution in ("bundler", "nodenext"):
        module = "nodenext" if resolution == "nodenext" else "es2022"
        tsc(
            node, "--noEmit", "--strict", "--target", "es2022", "--module", module,
            "--moduleResolution", resolution, "consumer.ts", cwd=tmp_path,
        )  # fmt: skip
    (tmp_path / "plain.mjs").write_text(PLAIN)
    command(node, node, "plain.mjs", cwd=tmp_path)
