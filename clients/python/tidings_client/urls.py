"""Where a service is: the URL that is given, and those that are made of it."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode, urlsplit

_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def base_url(url: str) -> str:
    """Return the service's URL by ``http`` or ``https``, without a slash at its end.

    It may be given by ``ws`` or ``wss`` too, and have a path, where a proxy has put the service under one.
    Raises ValueError.
    """
    try:
        parts = urlsplit(url)
        scheme = _SCHEMES[parts.scheme]
        complete = parts.hostname and parts.port != 0
    except (KeyError, ValueError):
        complete = False
    if not complete:
        raise ValueError(f"{url} is not the URL of a service")
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def socket_url(base: str, query: Mapping[str, str]) -> str:
    """Return where the WebSocket of the service at ``base`` is."""
    return f"ws{base.removeprefix('http')}/v1/ws?{urlencode(query)}"
