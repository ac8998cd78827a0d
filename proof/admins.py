"""Admins: they move members, take tokens and events back, disconnect, and ask how far devices have got."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from random import Random
from typing import Any, Final
from urllib.parse import quote

import msgspec

from proof.devices import Device, Visit
from proof.history import Connecting, Moved, Ordered, Recalled, Recalling, Revoked, Stored, Token
from proof.scene import Account, Scene
from proof.wire import Caller, Lost, Reply, Socket, Unreachable

RETRY_PAUSE: Final = 0.1
MOST_ATTEMPTS: Final = 60


class Admin:
    """Orders one thing after the other, each from any instance."""

    def __init__(
        self, scene: Scene, rng: Random, accounts: Sequence[Account], devices: Sequence[Device], *,
        rooms: int, pause: float,
    ) -> None:  # fmt: skip
        self._scene = scene
        self._rng = rng
        self._accounts = accounts
        self._devices = devices
        self._rooms = rooms
        self._pause = pause
        self._numbers = count(1)
        self._callers = [Caller(url, scene.admin_key) for url in scene.urls]
        self.dead: list[Token] = []
        """Tokens that were taken back."""

    async def run(self) -> None:
        """Order until it all ends."""
        acts: list[tuple[Callable[[], Any], float]] = [
            (self.move, 6), (self.revoke_user, 1), (self.revoke_token, 1), (self.recall, 1),
            (self.disconnect, 1), (self.ask, 2),
        ]  # fmt: skip
        while not self._scene.ending.is_set():
            [act] = self._rng.choices([act for act, _ in acts], [weight for _, weight in acts])
            await act()
            await self._scene.pause(self._rng, self._pause)

    def close(self) -> None:
        """Let go of the connections."""
        for caller in self._callers:
            caller.close()

    async def move(self) -> None:
        """Change who is in a room of the API's, one or a few at once."""
        room = f"team.{self._rng.randrange(self._rooms)}"
        names = [account.name for account in self._accounts]
        some = self._rng.sample(names, self._rng.randint(1, min(3, len(names))))
        added = [name for name in some if self._rng.random() < 0.6]
        await self.change(room, added, [name for name in some if name not in added])

    async def change(self, room: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """Make members, and end memberships."""
        path, body = f"/v1/rooms/{room}/members", {"add": list(added), "remove": list(removed)}
        for names, joins in ((added, True), (removed, False)):
            for name in names:
                self._scene.history.add(Moved(user=name, room=room, joins=joins, source="api"))
        reply = await self._order("member", "POST", path, body, (200,))
        for change in [] if reply is None else msgspec.json.decode(reply.body):
            self._scene.history.add(Moved(
                user=change["user"], room=room, joins=change["member"], source="api",
                position=change["position"],
            ))  # fmt: skip

    async def revoke_user(self) -> None:
        """Take back all that a user has been issued; their devices get new tokens from now on."""
        account = self._rng.choice(self._accounts)
        token = self._scene.token(account, f"{account.name}/stolen/{account.generation}", ("chat.*",))
        account.generation += 1
        if await self._revoke(user=account.name, issued_before=token.iat):
            self.dead.append(token)

    async def revoke_token(self) -> None:
        """Take back the token of one device, which gets another one."""
        device = self._rng.choice(self._devices)
        token = device.token()
        device.issue += 1
        if await self._revoke(jti=token.jti):
            self.dead.append(token)

    async def ban(self, account: Account) -> None:
        """Take back all that a user has been and will be issued."""
        account.banned = True
        if await self._revoke(user=account.name, ban=True):
            self.dead.append(self._scene.token(account, f"{account.name}/stolen/ban", ("chat.*",)))

    async def _revoke(self, **order: Any) -> bool:
        reply = await self._order("revoke", "POST", "/v1/revocations", order, (201,))
        if reply is not None:
            order.pop("ban", None)
            position = msgspec.json.decode(reply.body)["position"]
            self._scene.history.add(Revoked(position=position, **order))
        return reply is not None

    async def recall(self) -> None:
        """Take back an event of late."""
        if not self._scene.placed:
            return
        position = self._rng.choice(self._scene.placed[-50:])
        self._scene.history.add(Recalling(recalled=position))
        reply = await self._order("recall", "DELETE", f"/v1/events/{position}", None, (200, 404))
        if reply is not None and reply.status == 200:
            own = msgspec.json.decode(reply.body)["position"]
            self._scene.history.add(Recalled(recalled=position, position=own))

    async def disconnect(self) -> None:
        """Close a connection that one instance has, from any other."""
        reply = await self._order("disconnect", "GET", "/v1/connections?limit=50", None, (200,))
        found = [] if reply is None else msgspec.json.decode(reply.body)["data"]
        if found:
            path = f"/v1/connections/{self._rng.choice(found)['id']}"
            await self._order("disconnect", "DELETE", path, None, (200,))

    async def ask(self) -> None:
        """Ask how far a user's devices have got."""
        await self.ask_about(self._rng.choice(self._accounts))

    async def ask_about(self, account: Account) -> None:
        """Write down how far a user's devices have got."""
        caller = self._rng.choice(self._callers)
        try:
            reply = await caller.call("GET", f"/v1/users/{quote(account.name)}/devices")
        except (Lost, Unreachable):
            return
        for device in msgspec.json.decode(reply.body)["data"] if reply.status == 200 else []:
            self._scene.history.add(Stored(
                user=account.name, device=device["device"], cursor=device["cursor"]
            ))  # fmt: skip

    async def _order(
        self, what: Any, method: str, path: str, body: object, good: tuple[int, ...]
    ) -> Reply | None:
        """Order something, again where it failed: each of these may be done twice."""
        for _ in range(MOST_ATTEMPTS):
            caller = self._rng.choice(self._callers)
            self._scene.history.add(Ordered(order=str(next(self._numbers)), url=caller.url, what=what))
            try:
                reply = await caller.call(method, path, body)
            except (Lost, Unreachable):
                pass
            else:
                if reply.status in good:
                    return reply
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * RETRY_PAUSE)
        return None


class Thief(Device):
    """Comes again and again with tokens that were taken back."""

    def __init__(self, scene: Scene, rng: Random, admin: Admin) -> None:
        super().__init__(scene, Account("nobody"), "thief", rng)
        self._admin = admin
        self._attempts = count(1)

    async def run(self) -> None:
        """Try until it all ends."""
        while not self.scene.ending.is_set():
            if self._admin.dead:
                await self._try(self._rng.choice(self._admin.dead), self._rng.choice(self.scene.urls))
            await self.scene.pause(self._rng, 0.1)

    async def _try(self, token: Token, url: str) -> None:
        visit = Visit(self, f"thief#{next(self._attempts)}")
        self.scene.history.add(Connecting(connection=visit.name, url=url, device=self.name, token=token))
        try:
            socket = await Socket.open(self._address(url, token, None), visit)
        except Unreachable:
            visit.gone(0)
            return
        try:
            async with asyncio.timeout(5):
                if await visit.welcomed:
                    await self.scene.pause(self._rng, 0.2)
        except TimeoutError:
            pass
        finally:
            await self._leave(visit, socket)
