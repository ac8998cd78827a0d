"""Sends events, as a backend does.

    export TIDINGS_URL=http://127.0.0.1:8000 TIDINGS_KEY=tk_…
    python examples/python/publish.py user:alice hello '{"text": "It works"}'

It is in the log once, however often it had to be tried. Needs `pip install tidings-client`.
"""

import asyncio
import json
import os
import sys

from tidings_client import Publisher


async def main(to: str, type: str, data: str = "null") -> None:
    async with Publisher(os.environ["TIDINGS_URL"], os.environ["TIDINGS_KEY"]) as publisher:
        sent = await publisher.send(to, type, json.loads(data))
    print(sent)


asyncio.run(main(*sys.argv[1:]))
