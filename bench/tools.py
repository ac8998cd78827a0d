"""What a run needs: the programs in C are built, the peers' packages installed, the rest is looked for."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).parent
BUILD: Final = HERE / "build"
PEERS: Final = HERE / "peers"


class Missing(Exception):
    """Nothing can be measured without this."""


class Tools(NamedTuple):
    """Paths of programs; empty where a peer's is missing, and the peer is left out then."""

    load: Path
    floor: Path
    nginx: str
    nginx_modules: str
    node: str
    redis: str
    tidings: str

    @property
    def peers(self) -> set[str]:
        """Return the names of the servers that can be had here."""
        names = {"tidings", "floor", "naive", "plain"}
        if self.nginx:
            names.add("nchan")
        if self.node:
            names |= {"socketio", "ws", "socketio+postgres"}
        if self.redis:
            names |= {f"{name}+redis" for name in ("nchan", "socketio") if name in names}
        return names


def prepare(tidings: str) -> tuple[Tools, list[str]]:
    """Build and install; return what there is, and a line for each thing that is missing."""
    missing: list[str] = []
    nginx, modules = _nginx(missing)
    node, redis = _node(missing), _redis(missing)
    return Tools(_build("load"), _build("floor"), nginx, modules, node, redis, tidings), missing


def _build(name: str) -> Path:
    program, sources, headers = BUILD / name, [*HERE.glob(f"{name}*.c")], [*HERE.glob(f"{name}*.h")]
    compiler = shutil.which("cc")
    if compiler is None:
        raise Missing("there is no C compiler: apt-get install gcc libc6-dev")
    BUILD.mkdir(exist_ok=True)
    newest = max(source.stat().st_mtime for source in (*sources, *headers))
    if not program.exists() or program.stat().st_mtime < newest:
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", program, *sources], check=True)
    return program


def _nginx(missing: list[str]) -> tuple[str, str]:
    """Return nginx and the directory of its modules, if Nchan is among them."""
    nginx = _which("nginx")
    if nginx:
        about = subprocess.run([nginx, "-V"], check=True, capture_output=True, text=True).stderr
        modules = re.search(r"--modules-path=(\S+)", about)
        if modules and Path(modules[1], "ngx_nchan_module.so").exists():
            return nginx, modules[1]
    missing.append("nchan and nchan+redis are left out: apt-get install nginx-light libnginx-mod-nchan")
    return "", ""


def _node(missing: list[str]) -> str:
    """Return node, once the peers' packages are there."""
    node, npm = _which("node"), _which("npm")
    if not node or not npm:
        missing.append("ws and socketio, also with a store, are left out: apt-get install nodejs npm")
        return ""
    wanted, installed = PEERS / "package-lock.json", PEERS / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], check=True, cwd=PEERS)
    return node


def _redis(missing: list[str]) -> str:
    redis = _which("redis-server")
    if not redis:
        missing.append("nchan+redis and socketio+redis are left out: apt-get install redis-server")
    return redis


def _which(name: str) -> str:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin") or ""
