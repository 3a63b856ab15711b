"""A pull, from the hub's listing to a registered model."""

import asyncio
import logging
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from control.activation.activator import Activator
from control.activation.wishes import SwitchWish
from control.checkpoints.adapter_kinds import check_kind
from control.checkpoints.architecture import check_architecture
from control.checkpoints.checkpoint import Checkpoint, check_no_kernels, quantization_of
from control.errors import BadJob, Conflict, GatewayUnavailable, Invalid, ServiceError
from control.models.capabilities import EngineAbilities, check_no_remote_code
from control.models.placed_folders import PlacedFolders
from control.models.registration import RegisterRequest
from control.models.registry import Registered, Registry
from control.models.served_template import LAST_RESORT
from control.pull.hub import Hub
from control.pull.orders import Listing
from control.pull.request import PullRequest
from control.pull.selection import RemoteFile, select, weights_bytes
from control.pull.staging import LEAST_SPARE_BYTES, Staging
from stepserve.durable import write_whole
from stepserve.jobs.ports import StandaloneContext

log = logging.getLogger(__name__)

LISTING_FILE = "listing.json"


class PullKind:
    """Implements stepserve.jobs.ports.StandaloneKind.

    Nothing is seen under models/ before all of it is there and checked.
    """

    type: ClassVar[str] = "pull"

    def __init__(
        self,
        models: Path,
        registry: Registry,
        activator: Activator,
        abilities: EngineAbilities,
        placed: PlacedFolders,
        hub: Hub,
        *,
        trust_remote_code: bool,
        spare_bytes: int,
    ) -> None:
        self._models = models
        self._registry = registry
        self._activator = activator
        self._abilities = abilities
        self._placed = placed
        self._hub = hub
        self._trust_remote_code = trust_remote_code
        self._spare_bytes = max(spare_bytes, LEAST_SPARE_BYTES)

    async def run(self, context: StandaloneContext) -> dict[str, Any]:
        """What can be refused is refused before the first large file. Raises ServiceError."""
        request = PullRequest.model_validate(context.config)
        listing = await self._listing(context.run_dir / LISTING_FILE, request)
        wanted = select(request.model, listing.files)
        await self._check(request, listing, wanted)
        staging = Staging(self._models, request.model_id, listing.commit)
        taken = await self._registry.path_of(request.model_id)
        if taken is not None and not await asyncio.to_thread(_is_one, taken, staging.target):
            raise Conflict(
                f"{request.model_id} is registered already, at {taken}: pull under another id, or delete it first"
            )
        total = sum(file.size_bytes for file in wanted)
        transferred = 0
        if await asyncio.to_thread(staging.target.is_dir):  # links in it may lead anywhere: nothing there is read
            await asyncio.to_thread(self._registry.allowed, RegisterRequest(id=request.model_id, source="pull"))
        if not await asyncio.to_thread(staging.is_done, wanted):
            present = await asyncio.to_thread(staging.make_room, wanted, self._spare_bytes)
            await context.report(present, total)
            await self._hub.fetch(
                request.model, listing.commit, staging.files, wanted, lambda done: context.report(done, total)
            )
            transferred = total - present
            await self._registry.inspect(staging.files)
            await asyncio.to_thread(staging.sync)
            await self._publish(staging)
        await context.report(total, total)
        registered, warnings = await self._register(request, listing, staging.target)
        result = _result(request, listing, registered, total, transferred) | {"warnings": warnings}
        if request.init:
            result["activation"] = await self._activate(request.model_id, context.job_id)
        return result

    async def _listing(self, file: Path, request: PullRequest) -> Listing:
        """The first attempt's: a branch that moves on between two attempts must not mix two commits."""
        try:
            return Listing.model_validate_json(await asyncio.to_thread(file.read_bytes))
        except FileNotFoundError:
            pass
        except ValidationError as error:
            log.warning("%s is broken, asking again: %s", file, error)
        listing = await self._hub.listing(request.model, request.revision)
        await asyncio.to_thread(write_whole, file, listing.model_dump_json())
        return listing

    async def _check(self, request: PullRequest, listing: Listing, wanted: list[RemoteFile]) -> None:
        """Raises Invalid for what could not be loaded, GatewayUnavailable while nobody can say whether."""
        config = listing.config
        await self._registry.check_engine(request.engine)
        if config is None:
            check_kind(listing.adapter_config or {})
            trainers_name = (listing.adapter_config or {}).get("base_model_name_or_path")
            await self._registry.base_for(request.base_model, trainers_name if isinstance(trainers_name, str) else None)
            return
        check_architecture(config.get("architectures"))
        check_no_kernels(config)
        if config.get("auto_map") and not self._trust_remote_code:
            check_no_remote_code(config, await self._abilities.get())
        await self._registry.choose_quantize(request.quantize, weights_bytes(wanted), quantization_of(config))

    async def _publish(self, staging: Staging) -> None:
        """The files become models/<id>, all at once. Raises Conflict when somebody took that place meanwhile."""
        try:
            await self._placed.place(staging.files, staging.target, "pull")
        except OSError as error:
            raise Invalid(f"{staging.target} cannot be made: {error.strerror}") from error
        await asyncio.to_thread(staging.clear)

    async def _register(self, request: PullRequest, listing: Listing, folder: Path) -> tuple[Registered, list[str]]:
        """With what a person should know of the model."""
        template, warnings = request.chat_template, list[str]()
        if template is None and await self._has_no_template(request.model_id, folder):
            template = LAST_RESORT
            taken = (
                f"{request.model} brings no chat template: chats are rendered with the built-in one called"
                f" {template!r}; register it again with `chat_template` and `replace: true` for another"
            )
            warnings.append(taken)
        registered = await self._registry.register(
            RegisterRequest(
                id=request.model_id,
                source=f"hub:{request.model}@{listing.commit[:12]}",
                tags=request.tags,
                base_model=request.base_model,
                quantize=request.quantize,
                chat_template=template,
                engine=request.engine,
            )
        )
        return registered, [*warnings, *await self._registry.warnings(registered.model)]

    async def _has_no_template(self, model_id: str, folder: Path) -> bool:
        """Of a model that is new here. Whoever pulls one wants to talk to it, and has nobody else's word for how."""
        if self._registry.templates.default is not None or await self._registry.path_of(model_id) is not None:
            return False
        content = await self._registry.inspect(folder)
        return isinstance(content, Checkpoint) and content.has_template is False

    async def _activate(self, model_id: str, job_id: str) -> dict[str, Any]:
        try:
            done = await self._activator.set_active(model_id, SwitchWish(), cause=f"pull {job_id}")
        except Conflict as error:  # another switch runs: it will be over
            raise GatewayUnavailable(str(error)) from error
        except GatewayUnavailable:
            raise
        except ServiceError as error:
            raise BadJob(f"{model_id} is registered, but could not be made active: {error}") from error
        return done.shown()


def _is_one(registered: Path, target: Path) -> bool:
    return target.exists() and registered == target.resolve()


def _result(
    request: PullRequest, listing: Listing, registered: Registered, size_bytes: int, transferred_bytes: int
) -> dict[str, Any]:
    model = registered.model
    return {
        "model_id": model.id,
        "local_path": model.path,
        "digest": model.digest,
        "repository": request.model,
        "commit": listing.commit,
        "size_bytes": size_bytes,
        "transferred_bytes": transferred_bytes,
        "quantization": model.quantization,
        "quantize": model.quantize,
        "preferred_quantized": model.quantize in {"q4", "q8"},
    }
