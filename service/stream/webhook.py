"""One URL that is called: signed, over a connection to an address that was looked at first."""

import asyncio
import socket
from time import time
from typing import Final, NamedTuple, Self

import httpx

from service.domain.webhooks import is_public, retry_after, signed

TIMEOUT: Final = 15.0
"""Seconds for a call, from the look-up of the name to the head of the answer."""


class Answer(NamedTuple):
    """What came back: ``told`` says it for people. No ``status`` where there was no answer."""

    status: int | None
    told: str
    retry_after: float | None = None

    @property
    def ok(self) -> bool:
        """Tell whether it was taken."""
        return self.status is not None and 200 <= self.status < 300


class Refused(ValueError):
    """The name leads into a private network."""


class Webhook:
    """Posts to one URL, and follows it nowhere else.

    A name may lead anywhere, and elsewhere the next time it is asked for: so it is resolved here, what
    it leads to is looked at, and the connection goes to that very address. TLS is still checked
    against the name. No redirect is followed, no proxy asked, and nothing of a body is read.
    """

    def __init__(self, url: str, key: bytes, *, allow_private: bool) -> None:
        self._url = httpx.URL(url)
        self._key = key
        self._allow_private = allow_private
        self._client = httpx.AsyncClient(
            verify=httpx.create_ssl_context(), trust_env=False, follow_redirects=False, timeout=TIMEOUT
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def post(self, message_id: str, body: bytes) -> Answer:
        """Post JSON; whatever goes wrong is an answer too."""
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._post(message_id, body)
        except TimeoutError:
            return Answer(None, f"no answer within {TIMEOUT:.0f} s")
        except Exception as error:  # noqa: BLE001 - what others send must not end the service
            return Answer(None, f"{type(error).__name__}: {error}")

    async def _post(self, message_id: str, body: bytes) -> Answer:
        address = await self._resolve()
        headers = {
            "Host": self._url.netloc.decode(),
            "Content-Type": "application/json",
            "User-Agent": "Tidings",
            "Connection": "close",
            **signed(self._key, message_id, int(time()), body),
        }
        async with self._client.stream(
            "POST", self._url.copy_with(host=address), content=body, headers=headers,
            extensions={"sni_hostname": self._url.raw_host.decode()},
        ) as response:  # fmt: skip
            wait = retry_after(response.headers.get("retry-after"), time())
            return Answer(response.status_code, f"status {response.status_code}", wait)

    async def _resolve(self) -> str:
        """Return an address of the URL's host that may be called."""
        host = self._url.raw_host.decode()
        found = await asyncio.get_running_loop().getaddrinfo(
            host, self._url.port or {"http": 80, "https": 443}[self._url.scheme], type=socket.SOCK_STREAM
        )
        for *_, (address, *_) in found:
            if self._allow_private or is_public(str(address)):
                return str(address)
        raise Refused("its name leads into a private network")
