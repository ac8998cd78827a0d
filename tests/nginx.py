"""The real nginx on ``deploy/nginx.conf``, before servers of a test."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect

from tests.harness import ADMIN_KEY, PATIENCE, Device, eventually, token

CONFIG = Path(__file__).parents[1] / "deploy/nginx.conf"
NAME = "push.example.com"


class Nginx:
    """A running nginx; its logs, certificate and temporary files are in ``folder``."""

    def __init__(self, port: int, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.port = port
        self.folder = folder
        self._process = process
        self.trust = ssl.create_default_context(cafile=str(folder / "fullchain.pem"))
        self.trust.set_alpn_protocols(["http/1.1"])

    @property
    def logged(self) -> str:
        """All that it has logged."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    @property
    def workers(self) -> set[int]:
        """The ids of its worker processes."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return set(map(int, children.read_text().split()))

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    async def device(self, user: str, *, headers: dict[str, str] | None = None, **query: Any) -> Device:
        """Connect as ``user``, by way of nginx."""
        asked = urlencode({"token": token(user), **query})
        wire = await connect(
            f"wss://{NAME}/v1/ws?{asked}", host="127.0.0.1", port=self.port, ssl=self.trust,
            compression=None, additional_headers=headers, proxy=None,
        )  # fmt: skip
        return Device(wire)

    async def live(self, user: str, **query: Any) -> Device:
        device = await self.device(user, **query)
        await device.until("live")
        return device

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{self.port}", verify=self.trust, timeout=PATIENCE,
            headers={"Host": NAME, "Authorization": f"Bearer {ADMIN_KEY}"},
        )  # fmt: skip


@asynccontextmanager
async def nginx_before(folder: Path, *ports: int, **changes: str) -> AsyncIterator[Nginx]:
    """Run nginx before the servers on two ``ports``; ``changes`` are of the configuration, by directive."""
    command = shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    assert command, "these tests need nginx: apt-get install nginx-light"
    port = _free_port()
    _certify(folder)
    config = folder / "nginx.conf"
    config.write_text(_rendered(folder, port, ports, changes))
    arguments = ["-c", str(config), "-p", str(folder), "-e", str(folder / "start.log"), "-g", "daemon off;"]
    process = await asyncio.create_subprocess_exec(command, *arguments)
    try:
        await eventually(lambda: _listens(port) or process.returncode is not None)
        assert process.returncode is None, (folder / "start.log").read_text()
        yield Nginx(port, folder, process)
    finally:
        process.terminate()
        await process.wait()


def _rendered(folder: Path, port: int, ports: tuple[int, ...], changes: dict[str, str]) -> str:
    """Return the configuration as it is, but for where things are on this machine."""
    text = CONFIG.read_text()
    user = "user root;" if os.getuid() == 0 else ""
    temporary = "".join(
        f" {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    one, two = ports
    for old, new in {
        "user www-data;": user, "/run/nginx.pid": f"{folder}/nginx.pid", "/var/log/nginx": str(folder),
        "/etc/ssl/tidings": str(folder), "listen 443": f"listen 127.0.0.1:{port}",
        "http {": "http {" + temporary, "127.0.0.1:8001": f"127.0.0.1:{one}",
        "127.0.0.1:8002": f"127.0.0.1:{two}", "worker_processes auto": "worker_processes 1",
        # Memory is taken for all of them at the start.
        "worker_connections 200000": "worker_connections 500",
        "worker_rlimit_nofile 210000": "worker_rlimit_nofile 1200",
        **changes,
    }.items():  # fmt: skip
        assert old in text, old
        text = text.replace(old, new)
    return text


def _certify(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(NAME), x509.IPAddress(IPv4Address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False).sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "fullchain.pem").write_bytes(made.public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "privkey.pem").write_bytes(secret)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
