"""Does something for each event exactly once: here it adds up what was sold, in SQLite.

    export TIDINGS_URL=http://127.0.0.1:8000 TIDINGS_TOKEN=eyJ…
    python examples/python/worker.py sales.db

The position is kept in the same database, and committed in the same transaction, as what the event has
caused. So there is no moment, also not in a crash, at which one is there without the other. It works as well
with PostgreSQL, and wherever else both fit into one transaction. Needs `pip install tidings-client`.
"""

import asyncio
import os
import sqlite3
import sys

from tidings_client import Tidings


class Ledger:
    """A store of the SDK's: it is told the position when an event is handled, and commits."""

    def __init__(self, path: str) -> None:
        self.db = sqlite3.connect(path)
        self.db.execute("create table if not exists progress (key text primary key, value text)")
        self.db.execute("create table if not exists sold (article text primary key, pieces integer)")

    def get(self, key: str) -> str | None:
        row = self.db.execute("select value from progress where key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set(self, key: str, value: str) -> None:
        self.db.execute("insert or replace into progress values (?, ?)", (key, value))
        self.db.commit()  # with what was done for the event

    def add(self, article: str, pieces: int) -> None:
        self.db.execute(
            "insert into sold values (?, ?) on conflict do update set pieces = pieces + excluded.pieces",
            (article, pieces),
        )


async def main(path: str) -> None:
    ledger = Ledger(path)
    url, token = os.environ["TIDINGS_URL"], os.environ["TIDINGS_TOKEN"]
    async with Tidings(url, token, device="worker.py", store=ledger) as tidings:
        async for event in tidings:
            if event.type == "sold":
                ledger.add(event.data["article"], event.data["pieces"])
                print(event.data["article"], flush=True)


asyncio.run(main(sys.argv[1]))
