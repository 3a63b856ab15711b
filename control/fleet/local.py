"""Control's own gateway as GET /fleet shows it: it never joins, and is asked when somebody looks."""

import asyncio

from control.errors import ServiceError
from control.fleet.members import Members
from control.fleet.states import Facts, state_of
from control.gateway_client import GatewayClient
from stepserve import __version__
from stepserve.contract import GatewayState, ModelRef
from stepserve.devices import devices_here
from stepserve.fleet import LOCAL_MEMBER, Committed, FleetDevice, FleetMember, fleet_devices
from stepserve.fleet_settings import FleetSettings
from stepserve.installed_vllm import installed_vllm


class LocalMember:
    def __init__(self, gateway: GatewayClient, members: Members, settings: FleetSettings) -> None:
        self._gateway = gateway
        self._members = members
        self._settings = settings
        self._devices: list[FleetDevice] | None = None

    async def show(self) -> FleetMember:
        if self._devices is None:
            self._devices = fleet_devices(await asyncio.to_thread(devices_here))
        facts, reason = await self._facts()
        state, why = state_of(facts, self._members.committed, self._settings.lease_s)
        served = facts.serves
        return FleetMember(
            id=LOCAL_MEMBER,
            url=None,
            zone=self._settings.zone,
            labels=self._settings.labels,
            devices=self._devices,
            state=state,
            model=served.model if served else None,
            digest=served.digest if served else None,
            version=served.version if served else 0,
            in_flight=facts.in_flight,
            heartbeat_age_s=0.0,
            stepserve_version=__version__,
            vllm_version=installed_vllm(),
            reason=reason or why,
        )

    async def _facts(self) -> tuple[Facts, str | None]:
        try:
            state = await self._gateway.state()
        except ServiceError as error:
            return Facts(silent_s=0.0, left=True), str(error)
        return facts_of(state, versioned=self._is_versioned), None

    @property
    def _is_versioned(self) -> bool:
        """Whether weights that were pushed are the fleet's, or else control's own gateway's, which is alone."""
        committed = self._members.committed
        return not self._members.is_empty or (committed is not None and committed.version > 0)


def facts_of(state: GatewayState, *, versioned: bool) -> Facts:
    """Not `versioned`: weights that were pushed count as the active model, as its files do."""
    slot = next((each for each in state.slots if each.active), None)
    active = state.active
    serves = None
    if active is not None and slot is not None:
        serves = Committed(model=active.id, digest=active.digest)
        if versioned and slot.version.number:
            serves = Committed(model=active.id, digest=slot.model.digest, version=slot.version.number)
    return Facts(
        silent_s=0.0,
        serving=slot is not None and slot.phase == "ready" and slot.health != "failed",
        serves=serves,
        in_flight=sum(each.in_flight for each in state.slots),
        in_turn=state.switching_to is not None,
    )


def serves_files_of(state: GatewayState, model: ModelRef) -> bool:
    """Whether a gateway's active model is that, though weights may have been pushed into it since."""
    return state.active is not None and (state.active.id, state.active.digest) == (model.id, model.digest)
