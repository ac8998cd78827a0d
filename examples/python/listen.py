"""Prints a user's events, each once, wherever it was interrupted.

    export TIDINGS_URL=http://127.0.0.1:8000 TIDINGS_TOKEN=eyJ…
    python examples/python/listen.py

Stop it with Ctrl-C, or kill it, send some events, and start it again: it goes on where it was. Needs
`pip install tidings-client`.
"""

import asyncio
import os

from tidings_client import FileStore, Tidings


async def main() -> None:
    url, token = os.environ["TIDINGS_URL"], os.environ["TIDINGS_TOKEN"]
    async with Tidings(url, token, device="listen.py", store=FileStore("listen.json")) as tidings:
        async for event in tidings:  # an event is handled when the next one is asked for
            print(event.position, event.type, event.data, flush=True)


asyncio.run(main())
