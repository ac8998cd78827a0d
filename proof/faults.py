"""The scenarios by name, in the order in which they are played."""

from collections.abc import Awaitable, Callable
from typing import Final

from proof.play import Play
from proof.scenarios.clocks import clock
from proof.scenarios.crashes import frozen, postgres_stop, redis_kill, rolling_restart, sigkill
from proof.scenarios.crowds import cuts, silent, storm, survivors
from proof.scenarios.disks import failover, full_disk
from proof.scenarios.homecoming import homecoming
from proof.scenarios.hostility import hostility
from proof.scenarios.links import links_of_clients, links_to_postgres, links_to_redis, redis_black_hole
from proof.scenarios.revocations import revocation

SCENARIOS: Final[dict[str, Callable[[Play], Awaitable[None]]]] = {
    scenario.__name__.replace("_", "-"): scenario
    for scenario in (
        sigkill, postgres_stop, redis_kill, redis_black_hole, links_of_clients, links_to_postgres,
        links_to_redis, full_disk, failover, silent, storm, clock, rolling_restart, frozen, revocation,
        survivors, cuts, homecoming, hostility,
    )
}  # fmt: skip
