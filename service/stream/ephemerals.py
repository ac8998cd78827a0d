"""Events that are not stored: passed on to who is live just now, on every instance."""

from service.domain.frames import ephemeral_frame
from service.domain.messages import Ephemeral
from service.domain.websocket import text_frame
from service.stream.courier import Courier
from service.stream.hub import Hub


class Ephemerals:
    """Passes them on. Nothing is promised of any of them."""

    def __init__(self, hub: Hub, courier: Courier) -> None:
        self._hub = hub
        self._courier = courier
        courier.on(Ephemeral, self._pass_on_here)

    def pass_on(self, event: Ephemeral) -> None:
        """Write one to who is connected here, and tell the other instances; its size has been checked."""
        self._pass_on_here(event)
        for part in event.parts():
            self._courier.send(part)

    def _pass_on_here(self, event: Ephemeral) -> None:
        data = bytes(event.data).decode()
        for to in event.addresses:
            frame = ephemeral_frame(to, event.type, data, event.time, event.id, event.sender)
            self._hub.pass_on(to, text_frame(frame), event.exclude)
