"""Bringing one member to a model, and to weights that were pushed into it: files there, then the member's own proof."""

from dataclasses import dataclass
from pathlib import Path

from control.errors import GatewayUnavailable, ServiceError
from control.fleet.files import ModelFiles
from control.fleet.kept_versions import KeptVersions
from control.fleet.local import serves_files_of
from control.fleet.members import Member, Members
from control.fleet.sources import FileSources
from control.models.activation_log import ActiveModel
from control.models.references import References
from control.models.registry import Registry
from stepserve.contract import ActivateRequest, ActivateResult, ModelRef
from stepserve.fleet import Committed, KeptVersion, StageRequest


class SwitchFailed(ServiceError):
    """A member did not take a model. `result` has how it went, where it got that far."""

    def __init__(self, reason: str, result: ActivateResult | None = None) -> None:
        super().__init__(reason)
        self.result = result


class MemberLost(SwitchFailed):
    """… since it does not answer any more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What gateways are to serve: a registered model, by a `request` that has control's paths, or `kept` in place of
    its files.
    """

    request: ActivateRequest
    kept: KeptVersion | None = None

    @property
    def committed(self) -> Committed:
        model, kept = self.request.model, self.kept
        if kept is None:
            return Committed(model=model.id, digest=model.digest)
        return Committed(model=model.id, digest=kept.digest, version=kept.version.number)

    def __str__(self) -> str:
        name = self.request.model.id
        return name if self.kept is None else f"version {self.kept.version.number} of {name}"


class Bringer:
    def __init__(
        self, registry: Registry, references: References, files: ModelFiles, versions: KeptVersions, members: Members
    ) -> None:
        self._registry = registry
        self._references = references
        self._files = files
        self._versions = versions
        self._members = members
        self._sources = FileSources(members)

    async def wanted(self, active: ActiveModel) -> Wanted:
        """What is committed, with what it is proved by. Raises NotFound, Invalid."""
        model = await self._registry.proven(active.id)
        reference = await self._references.stored(model.digest)
        base_reference = await self._references.stored(model.base.digest) if model.base else None
        request = ActivateRequest(model=model, reference=reference, base_reference=base_reference)
        return Wanted(request, await self._versions.of(active))

    async def staging_of(self, wanted: Wanted) -> StageRequest:
        """Raises Invalid when its files cannot be read."""
        model, kept = wanted.request.model, wanted.kept
        if kept is not None:
            model = ModelRef(id=kept.model, path=kept.folder, digest=kept.digest)
        delta_base = kept.delta_base if kept is not None else None
        manifests = [await self._files.manifest_at(model.id, model.digest, Path(model.path), delta_base)]
        if (base := model.base) is not None:
            manifests.append(await self._files.manifest_at(base.id, base.digest, Path(base.path)))
        return StageRequest(model=model, manifests=manifests)

    async def stage(self, member: Member, staging: StageRequest) -> ModelRef:
        """The model where the member has it, every file's hash checked there. Raises SwitchFailed."""
        try:
            async with self._sources.sending(staging.model.digest, member) as source:
                return (await member.client.stage(staging.model_copy(update={"source": source}))).model
        except GatewayUnavailable as error:
            raise MemberLost(str(error)) from error
        except ServiceError as error:
            raise SwitchFailed(f"it could not get the files: {error}") from error

    async def switch(self, member: Member, wanted: Wanted, there: ModelRef) -> ActivateResult:
        """The member serves it now, proved; `there` has the member's own paths. Raises SwitchFailed."""
        try:
            if wanted.kept is None:
                request = wanted.request.model_copy(update={"model": there})
                result = await member.client.activate(request)
            else:
                result = await member.client.take(wanted.kept.model_copy(update={"folder": there.path}))
        except GatewayUnavailable as error:
            raise MemberLost(str(error)) from error
        except ServiceError as error:
            raise SwitchFailed(str(error)) from error
        if result.status == "failed":
            raise SwitchFailed(result.error or f"{wanted} did not come up", result)
        await self._members.note_switched(member, wanted.committed)
        return result

    async def bring(self, member: Member, wanted: Wanted) -> None:
        """Unless it serves that already; pushed weights after the files that they were pushed over. Raises
        SwitchFailed.
        """
        try:
            state = await member.client.state()
        except ServiceError as error:
            raise MemberLost(str(error)) from error
        serves = next((slot for slot in state.slots if slot.active and slot.phase == "ready"), None)
        served = serves and Committed(model=serves.model.id, digest=serves.model.digest, version=serves.version.number)
        if served == wanted.committed:
            await self._members.note_switched(member, wanted.committed)
            return
        steps = [wanted]
        if wanted.kept is not None and not serves_files_of(state, wanted.request.model):
            steps = [Wanted(wanted.request), wanted]
        for step in steps:
            await self.switch(member, step, await self.stage(member, await self.staging_of(step)))
