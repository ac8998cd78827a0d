"""What a client token grants."""

import msgspec

from service.domain.addresses import Patterns


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """The believed content of a client token. No grant, no right.

    Times are seconds since the epoch, by the issuer's clock.
    """

    user: str
    expires_at: float
    issued_at: float | None = None
    jti: str | None = None
    rooms: Patterns = Patterns()
    """Rooms that may be joined and received."""
    join: tuple[str, ...] = ()
    """Rooms to join at connect."""
    publish: Patterns = Patterns()
    """Addresses that the client itself may publish to."""
    presence: bool = False
    """May see who is connected."""
    info: str | None = None
    """Shown in presence, members and connections: JSON text of at most 1 KiB."""
