"""What the HTTP routes work with."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.auth.keys import Keyring
from service.auth.tokens import TokenMinter, TokenVerifier
from service.domain.publication import Rules
from service.observe.metrics import Metrics
from service.settings import Settings
from service.store.database import Database
from service.stream.appender import Appender
from service.stream.closings import Closings
from service.stream.control import Control
from service.stream.courier import Courier
from service.stream.cursors import Cursors
from service.stream.ephemerals import Ephemerals
from service.stream.follower import Follower
from service.stream.limits import Limits
from service.stream.receipts import Receipts
from service.stream.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of this instance, as the lifespan built them."""

    settings: Settings
    rules: Rules
    instance: str
    database: Database
    follower: Follower
    courier: Courier
    closings: Closings
    ephemerals: Ephemerals
    appender: Appender
    scheduler: Scheduler
    control: Control
    cursors: Cursors
    receipts: Receipts
    keyring: Keyring
    verifier: TokenVerifier
    minter: TokenMinter | None
    limits: Limits
    metrics: Metrics


def service_of(request: Request) -> Service:
    """Return the parts that the lifespan put into the application's state."""
    service: Service = request.state.service
    return service


InService = Annotated[Service, Depends(service_of)]
