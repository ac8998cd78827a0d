"""What a client may ask for over its socket, and the checks that need no database."""

import msgspec

from service.domain.addresses import EVERYONE, check_address, check_text
from service.domain.errors import Invalid, Malformed, UnknownCommand
from service.domain.payload import check_data, decode, pointer_of


class Command(msgspec.Struct, tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """Any command; where it carries ``ref``, it is answered with ``ok`` or ``error``."""

    ref: str | int | None = None


class JoinRoom(Command, tag="join_room"):
    """Become a member, durably or for this connection only."""

    room: str
    durable: bool = True
    presence: bool = False


class LeaveRoom(Command, tag="leave_room"):
    """Stop being a member."""

    room: str


class Publish(Command, tag="publish"):
    """Publish an event as this user."""

    to: str
    event: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    id: str | None = None
    echo: bool = True
    ephemeral: bool = False


class RoomMessage(Command, tag="room_message"):
    """Shorthand for a publish to a room."""

    room: str
    content: msgspec.Raw
    id: str | None = None
    echo: bool = True


class DirectMessage(Command, tag="direct_message"):
    """Shorthand for a publish to a user."""

    to: str
    content: msgspec.Raw
    id: str | None = None
    echo: bool = True


class Broadcast(Command, tag="broadcast"):
    """Shorthand for a publish to everyone."""

    content: msgspec.Raw
    id: str | None = None
    echo: bool = True


class Ack(Command, tag="ack"):
    """Everything up to ``position`` has been processed."""

    position: int


class Ping(Command, tag="ping"):
    """Ask for a sign of life."""

    ts: str | int | float | None = None


class Pong(Command, tag="pong"):
    """Give one."""

    ts: str | int | float | None = None


class Rooms(Command, tag="rooms"):
    """List the user's rooms."""


class RoomMembers(Command, tag="room_members"):
    """List a room's members."""

    room: str


class Presence(Command, tag="presence"):
    """List who is connected in a room."""

    room: str


class RefreshToken(Command, tag="refresh_token"):
    """Go on with a newer token of the same user."""

    token: str


AnyCommand = (
    JoinRoom | LeaveRoom | Publish | RoomMessage | DirectMessage | Broadcast
    | Ack | Ping | Pong | Rooms | RoomMembers | Presence | RefreshToken
)  # fmt: skip


class _Envelope(msgspec.Struct):
    type: str
    ref: str | int | None = None


_decode = msgspec.json.Decoder(AnyCommand).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_known = {kind.__struct_config__.tag for kind in AnyCommand.__args__}


def read_command(text: str) -> AnyCommand:
    """Return the command in a text frame; raises Malformed, UnknownCommand or Invalid."""
    try:
        command: AnyCommand = _decode(text)
    except msgspec.ValidationError as error:
        if (kind := read_envelope(text).type) not in _known:
            raise UnknownCommand(f"there is no command {kind[:64]!r}") from None
        raise Invalid(str(error).partition(" - at ")[0], pointer_of(str(error))) from None
    except (msgspec.DecodeError, RecursionError):
        raise Malformed("a frame is a JSON object with a type") from None
    return command


def read_envelope(text: str) -> _Envelope:
    """Return the type and ref of a frame whose rest does not matter or cannot be read."""
    return decode(_decode_envelope, text)


def as_publish(command: Publish | RoomMessage | DirectMessage | Broadcast) -> Publish:
    """Return the publish that a shorthand stands for: its event is the frame's type."""
    if isinstance(command, Publish):
        return command
    if isinstance(command, RoomMessage):
        kind, to = "room_message", f"room:{command.room}"
    elif isinstance(command, DirectMessage):
        kind, to = "direct_message", f"user:{command.to}"
    else:
        kind, to = "broadcast", EVERYONE
    data = msgspec.Raw(b'{"content":' + bytes(command.content) + b"}")
    return Publish(to=to, event=kind, data=data, id=command.id, echo=command.echo, ref=command.ref)


def check_publish(command: Publish, max_data: int) -> str:
    """Check what is published; return its data as JSON text."""
    check_address(command.to, "#/to")
    check_text(command.event, 128, "#/event")
    if command.id is not None:
        check_text(command.id, 255, "#/id")
    return check_data(command.data, max_data, "#/data")
