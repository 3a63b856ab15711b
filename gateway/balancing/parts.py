"""The parts that spread requests over a fleet, put together."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gateway.balancing.members import Members, Serving
from gateway.balancing.spread import Spread
from gateway.balancing.view_link import ViewLink
from gateway.serving.served import Served
from gateway.sidecar.control_link import ControlProxy
from gateway.upstream.relay import Relay
from gateway.upstream.wire import Wire
from stepserve.settings import Settings


@dataclass(frozen=True, slots=True)
class Balancing:
    spread: Spread
    link: ViewLink

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self.link.run()
        finally:
            await self.spread.relay.wire.close()


def balancing_of(settings: Settings, control: ControlProxy, slot: Callable[[], Served | None]) -> Balancing | None:
    """None for a gateway that is a member of another's fleet. `slot`: what answers for the active model now.

    Members may have certificates that only the fleet trusts, so they are asked by other means than tiers are.
    """
    fleet = settings.fleet
    if fleet.control is not None:
        return None
    members = Members(partial(_serving, slot))
    link = ViewLink(control, members)
    relay = Relay(Wire(None if fleet.ca_file is None else fleet.tls()))
    return Balancing(Spread(members, relay, link.want, settings.max_held_requests, settings.hold_timeout_s), link)


def _serving(slot: Callable[[], Served | None]) -> Serving | None:
    found = slot()
    if found is None or found.dead:
        return None
    return Serving(found.model.id, found.model.digest, found.version.number)
