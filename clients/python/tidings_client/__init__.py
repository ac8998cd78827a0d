"""The Python client of Tidings: subscribe to events, and publish them."""

from tidings_client.errors import (
    Closed,
    CommandFailed,
    Ended,
    Refused,
    TidingsError,
    Unauthorized,
    Unconfirmed,
)
from tidings_client.events import Event, Published
from tidings_client.outgoing import Options, Sent
from tidings_client.publisher import Publisher
from tidings_client.stores import FileStore, Store
from tidings_client.subscriber import Tidings

__all__ = [
    "Closed", "CommandFailed", "Ended", "Event", "FileStore", "Options", "Published", "Publisher", "Refused",
    "Sent", "Store", "Tidings", "TidingsError", "Unauthorized", "Unconfirmed",
]  # fmt: skip
