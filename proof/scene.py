"""What all actors of a workload share: where the service is, who they are, and what is written down."""

import asyncio
from collections.abc import Sequence
from random import Random
from time import time
from typing import Final

from proof.history import History, Token
from service.auth.tokens import TokenMinter

LIFE: Final = 86_400
"""Seconds that a token is good for."""
GRANT: Final = "chat.*"


class Account:
    """A user: which of the tokens are good. ``generation`` counts what a revocation of all takes back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.generation = 0
        self.banned = False


class Scene:
    """The service's addresses, any of which may be down, and the history."""

    def __init__(self, urls: Sequence[str], secret: str, admin_key: str, history: History) -> None:
        self.urls = urls
        self.admin_key = admin_key
        self.history = history
        self.ending = asyncio.Event()
        """Set once nobody shall begin anything more."""
        self.settled = asyncio.Event()
        """Set once devices shall stay where they are."""
        self.awaited: set[str] = set()
        """Marks of events that were put off and that nobody has seen."""
        self.placed: list[int] = []
        """Positions of events, the newest last."""
        self._minter = TokenMinter(secret.encode(), "HS256", None, None)
        self._issued = int(time()) - 3600

    def token(self, account: Account, jti: str, rooms: tuple[str, ...]) -> Token:
        """Return a token of a user as it would be issued now."""
        return Token(user=account.name, jti=jti, iat=self._issued + account.generation, rooms=rooms)

    def signed(self, token: Token) -> str:
        """Return it as a JSON Web Token."""
        return self._minter.mint({
            "sub": token.user, "jti": token.jti, "iat": token.iat, "exp": token.iat + LIFE,
            "rooms": [*token.rooms], "publish": ["*"],
        })  # fmt: skip

    async def pause(self, rng: Random, seconds: float) -> None:
        """Wait for about so long, or until it all ends."""
        try:
            async with asyncio.timeout(rng.uniform(0.5, 1.5) * seconds):
                await self.ending.wait()
        except TimeoutError:
            return
