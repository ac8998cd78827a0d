"""Hostile inputs for a running service, as many as are wanted.

It should run with ``TIDINGS_COMMANDS_PER_SECOND=1000000`` and ``TIDINGS_USER_RATE=0``, or most frames are
never looked at. Each of these fails the run, and is kept with its input: an answer of 5xx, none at
all, a grant to a token that deserves none, a secret in an answer; an ERROR, a traceback or a secret in
the service's log.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from proof.malice import CANARY, Asked, Malice, frame, good_token, make_keys

LANES = 16
IN_A_ROW = 12
"""Requests that are sent before their answers are read."""
BURST = 1000
"""Frames that are."""
PATIENCE = 60.0
SHOWN = 20
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_ALARM = re.compile(r"Traceback|\bCRITICAL\b|\bERROR\b|was lost:|never awaited|exception was never")
_KINDS = ("head", "body", "target", "header", "token", "frames")

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Run:
    """One run: what was tried, what came of it, and what should not have."""

    def __init__(self, host: str, port: int, secret: str, admin_key: str, seed: int, count: int) -> None:
        self._at = host, port
        self.secrets = secret, admin_key
        self._seed = seed
        self._left = count
        self._keys = make_keys()
        self.tried: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.failures: list[str] = []

    async def run(self) -> None:
        """Try until the count is reached."""
        await asyncio.gather(*(self._lane(n) for n in range(LANES)))

    async def _lane(self, number: int) -> None:
        rng = Random(f"{self._seed}/{number}")
        malice = Malice(rng, *self.secrets, self._keys)
        turn = 0
        while self._left > 0 and len(self.failures) < SHOWN:
            kind = rng.choices(_KINDS, (2, 2, 1, 2, 2, 1))[0]
            turn += 1
            try:
                if kind == "head":
                    await self._broken(malice.head())
                elif kind == "frames":
                    await self._frames(malice, rng, f"{number}-{turn}")
                else:
                    await self._asked(kind, [getattr(malice, kind)() for _ in range(IN_A_ROW)])
            except ConnectionError as error:
                self._fail(kind, f"{type(error).__name__}: {error}", b"")

    def _count(self, kind: str, inputs: int) -> None:
        self.tried[kind] += inputs
        self._left -= inputs

    def _fail(self, kind: str, what: str, data: bytes) -> None:
        self.failures.append(f"{kind}: {what}: seed {self._seed}: {data[:2000]!r}")

    async def _asked(self, kind: str, some: list[Asked]) -> None:
        """Send sound requests in a row: each has its answer, unless one before it closed the connection."""
        reader, writer = await asyncio.open_connection(*self._at)
        writer.write(b"".join(asked.data for asked in some))
        for asked in some:
            answer = await self._answer(kind, reader, asked.data)
            if answer is None:
                break
            self._count(kind, 1)
            if not asked.granted and 200 <= answer < 300:
                self._fail(kind, f"{answer} for a token that deserves none", asked.data)
        writer.transport.abort()

    async def _broken(self, data: bytes) -> None:
        """Send what is no sound request: an answer, a close, or (where more is to come) neither."""
        reader, writer = await asyncio.open_connection(*self._at)
        writer.write(data)
        self._count("head", 1)
        try:
            async with asyncio.timeout(0.05):
                first = await reader.read(1)
        except (TimeoutError, ConnectionError):
            first = b""
            self.ended["head waits for more, or closed"] += 1
        if first:
            await self._answer("head", reader, data, first)
        writer.transport.abort()

    async def _answer(
        self, kind: str, reader: asyncio.StreamReader, data: bytes, first: bytes = b""
    ) -> int | None:
        """Read an answer; return its status, or None where the connection is closed."""
        try:
            async with asyncio.timeout(PATIENCE):
                head = first + await reader.readuntil(b"\r\n\r\n")
                status = int(head[9:12])
                length = _LENGTH.search(head)
                bodiless = data[:5] == b"HEAD " or status in {101, 204, 304} or length is None
                body = b"" if bodiless else await reader.readexactly(int(length[1]))  # type: ignore[index]
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended[f"{kind} closed"] += 1
            return None
        except TimeoutError:
            self._fail(kind, "no answer", data)
            return None
        self.ended[f"{kind} {status}"] += 1
        if status >= 500:
            self._fail(kind, str(status), data)
        if CANARY.encode() in head + body:
            self._fail(kind, "a secret in an answer", data)
        return None if b"\r\nconnection: close" in head.lower() or length is None else status

    async def _frames(self, malice: Malice, rng: Random, user: str) -> None:
        """Send frames over a live socket, a last ping behind them; it is answered, or a Close comes."""
        reader, writer = await asyncio.open_connection(*self._at)
        token = good_token(self.secrets[0], f"hostile-{user}")
        writer.write((
            f"GET /v1/ws?token={token}&device=d&after=9007199254740991 HTTP/1.1\r\nHost: x\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        ).encode())  # fmt: skip
        try:
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(b"\r\n\r\n")
            for _ in range(rng.randrange(1, 8)):
                async with asyncio.timeout(PATIENCE):
                    if not await self._burst((reader, writer), malice, rng):
                        break
        except TimeoutError:
            self._fail("frames", "no answer to the last ping", b"")
        except asyncio.IncompleteReadError:
            self.ended["frames closed"] += 1
        writer.transport.abort()

    async def _burst(self, wire: Wire, malice: Malice, rng: Random) -> bool:
        reader, writer = wire
        frames = list(malice.frames(rng.randrange(BURST)))
        mark = b"end %d" % rng.getrandbits(60)
        writer.write(b"".join(frames) + frame(0x89, mark, rng))
        self._count("frames", len(frames) + 1)
        while True:
            first, payload = await _read_frame(reader)
            if first == 0x8A and payload == mark:
                self.ended["frames live"] += 1
                return True
            if first == 0x88:
                code = int.from_bytes(payload[:2]) if payload else 1005
                self.ended[f"frames {code}"] += 1
                if code == 1011:
                    self._fail("frames", str(code), b"".join(frames)[-2000:])
                return False
            if CANARY.encode() in payload:
                self._fail("frames", "a secret in an answer", payload)


async def _read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, size = await reader.readexactly(2)
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
    return first, await reader.readexactly(size)


def alarms(log: Path, secrets: list[str], begin: int = 0) -> Iterator[str]:
    """Yield the lines of a log that show a failure or a secret."""
    with log.open(errors="replace") as lines:
        lines.seek(begin)
        for line in lines:
            if any(secret in line for secret in secrets):
                yield f"a secret in the log: {line[:2000]}"
            elif _ALARM.search(line):
                yield f"an error in the log: {line[:4000]}"


async def hostile(run: Run, log: Path | None = None) -> list[str]:
    """Run; return what should not have been, also by the service's ``log``."""
    begin = log.stat().st_size if log else 0
    await run.run()
    return run.failures + (list(alarms(log, [CANARY, *run.secrets], begin)) if log else [])
