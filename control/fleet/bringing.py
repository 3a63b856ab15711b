"""Bringing one member to a model: its files there, then the switch with the member's own proof."""

from pathlib import Path

from control.errors import GatewayUnavailable, ServiceError
from control.fleet.files import ModelFiles
from control.fleet.members import Member, Members
from control.models.references import References
from control.models.registry import Registry
from stepserve.contract import ActivateRequest, ActivateResult, ModelRef
from stepserve.fleet import Committed, StageRequest


class SwitchFailed(ServiceError):
    """A member did not take a model. `result` has how it went, where it got that far."""

    def __init__(self, reason: str, result: ActivateResult | None = None) -> None:
        super().__init__(reason)
        self.result = result


class MemberLost(SwitchFailed):
    """… since it does not answer any more."""


def committed_as(model: ModelRef) -> Committed:
    return Committed(model=model.id, digest=model.digest)


class Bringer:
    def __init__(self, registry: Registry, references: References, files: ModelFiles, members: Members) -> None:
        self._registry = registry
        self._references = references
        self._files = files
        self._members = members

    async def request_for(self, model_id: str) -> ActivateRequest:
        """A switch to a registered model as it lies here, with what it is proved by. Raises NotFound, Invalid."""
        model = await self._registry.proven(model_id)
        reference = await self._references.stored(model.digest)
        base_reference = await self._references.stored(model.base.digest) if model.base else None
        return ActivateRequest(model=model, reference=reference, base_reference=base_reference)

    async def staging_of(self, model: ModelRef) -> StageRequest:
        """Raises Invalid when its files cannot be read."""
        parts = [each for each in (model, model.base) if each is not None]
        manifests = [await self._files.manifest_at(each.id, each.digest, Path(each.path)) for each in parts]
        return StageRequest(model=model, manifests=manifests)

    async def stage(self, member: Member, staging: StageRequest) -> ModelRef:
        """The model where the member has it, every file's hash checked there. Raises SwitchFailed."""
        try:
            return (await member.client.stage(staging)).model
        except GatewayUnavailable as error:
            raise MemberLost(str(error)) from error
        except ServiceError as error:
            raise SwitchFailed(f"it could not get the files: {error}") from error

    async def switch(self, member: Member, request: ActivateRequest) -> ActivateResult:
        """The member serves the model now, proved; `request.model` has the member's own paths. Raises SwitchFailed."""
        try:
            result = await member.client.activate(request)
        except GatewayUnavailable as error:
            raise MemberLost(str(error)) from error
        except ServiceError as error:
            raise SwitchFailed(str(error)) from error
        if result.status == "failed":
            raise SwitchFailed(result.error or "the model did not come up", result)
        await self._members.note_switched(member, committed_as(request.model))
        return result

    async def bring(self, member: Member, request: ActivateRequest) -> None:
        """To the model of `request`, which has control's paths, unless it serves that already. Raises SwitchFailed."""
        wanted = request.model
        try:
            state = await member.client.state()
        except ServiceError as error:
            raise MemberLost(str(error)) from error
        serves = next((slot for slot in state.slots if slot.active and slot.phase == "ready"), None)
        served = serves and Committed(model=serves.model.id, digest=serves.model.digest, version=serves.version.number)
        if served == committed_as(wanted):
            await self._members.note_switched(member, committed_as(wanted))
            return
        there = await self.stage(member, await self.staging_of(wanted))
        await self.switch(member, request.model_copy(update={"model": there}))
