"""The registry: which checkpoints are models."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from control.checkpoints.adapter import Adapter, adapted_digest, check_fits, check_rank, inspect_adapter, is_adapter
from control.checkpoints.adapter_kinds import ADAPTER_CONFIG
from control.checkpoints.chat_templates import brings_another
from control.checkpoints.checkpoint import Checkpoint, inspect, tensors_of
from control.checkpoints.digest_cache import DigestCache
from control.checkpoints.quantisation import (
    QuantizeWish,
    choose,
    needs_capabilities,
    quantized_digest,
    quantized_signature,
)
from control.clock import Clock, utc_now
from control.database.tables import ModelRow
from control.errors import Conflict, Invalid, NotFound
from control.models.activation_log import ActivationLog
from control.models.aliases import Aliases
from control.models.capabilities import EngineAbilities, check_no_remote_code, check_servable
from control.models.model_engine import engine_digest, engine_of, engine_signature, with_its_engine
from control.models.model_roots import ModelRoots
from control.models.placed_files import Removal
from control.models.placed_folders import PlacedFolders
from control.models.references import References
from control.models.registration import RegisterRequest
from control.models.repository import ModelRepository
from control.models.served_template import (
    ServedTemplates,
    other_than,
    templated_signature,
    with_its_template,
)
from stepserve.contract import (
    ACTIVE_ALIAS,
    EngineOverrides,
    ModelRef,
    Quantize,
    RegisteredModel,
    id_of_repository,
)
from stepserve.digest import templated_digest
from stepserve.paths import Layout
from stepserve.probe import Probe
from stepserve.settings import Settings

log = logging.getLogger(__name__)

Content = Checkpoint | Adapter

_READERS = 4
HUB_SOURCE = "hub:"  # and the repository's name, of a model that was pulled


@dataclass(frozen=True, slots=True)
class Registered:
    model: ModelRow
    existing: bool


class Registry:
    def __init__(
        self,
        layout: Layout,
        models: ModelRepository,
        activations: ActivationLog,
        cache: DigestCache,
        references: References,
        abilities: EngineAbilities,
        placed: PlacedFolders,
        aliases: Aliases,
        settings: Settings,
        clock: Clock = utc_now,
    ) -> None:
        self._roots = ModelRoots(layout, settings.model_roots)
        self.templates = ServedTemplates(layout.templates, settings.default_template_text)
        self._models = models
        self._activations = activations
        self._cache = cache
        self._references = references
        self._abilities = abilities
        self._placed = placed
        self._aliases = aliases
        self._q4_threshold_bytes = settings.model_q4_threshold_bytes
        self._max_loras = settings.engine.max_loras
        self._max_lora_rank = settings.engine.max_lora_rank
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reads checkpoints")
        self._trust_remote_code = settings.engine.trust_remote_code
        self._clock = clock
        self._engine_unchecked: set[str] = set()  # ids whose engine arguments the gateway could not look at

    async def register(self, request: RegisterRequest) -> Registered:
        """Checks the files and takes them in. Registering the same content again changes nothing.

        Raises Invalid for files that are missing, torn or elsewhere, Conflict when the id has other content or is an
        alias.
        """
        await self.check_id(request.id)
        request = await self.named(request)
        folder = await asyncio.to_thread(self.allowed, request)
        return await self.take_in(request, folder)

    async def check_id(self, model_id: str) -> None:
        """Raises Conflict when a model that is not registered yet could not be asked for, since an alias has its id."""
        if await self._models.find(model_id) is None:
            await asyncio.to_thread(self._aliases.check_free, model_id)

    async def named(self, request: RegisterRequest) -> RegisterRequest:
        """With the text of the chat template that it names; of a request that has it already the same.

        Raises Invalid naming the field.
        """
        if request.chat_template is None:
            return request
        text = await asyncio.to_thread(self.templates.text, request.chat_template)
        return request.model_copy(update={"chat_template": text})

    async def take_in(self, request: RegisterRequest, folder: Path) -> Registered:
        """`register` for a folder that is allowed wherever it lies (the operator named it)."""
        async with self._placed.held(folder):
            return await self.take_in_held(request, folder)

    async def take_in_held(self, request: RegisterRequest, folder: Path) -> Registered:
        """`take_in` for a holder of the folder."""
        row = await self.row_for(request, folder)
        if await self._models.add(row):
            log.info("registered %s from %s: %s", row.id, row.path, row.digest)
            await self.refer(row, request)
            return Registered(row, existing=False)
        present = await self._models.get(request.id)
        kept = with_its_engine(with_its_template(request, present), present)
        if present.digest != row.digest and kept != request:
            row = await self.row_for(kept, folder)
        if present.digest != row.digest:
            raise Conflict(
                f"{request.id} is registered with {other_than(present, request)} ({present.digest}):"
                f" DELETE /models/{request.id} first, or use another id"
            )
        if request.engine is not None and present.engine != row.engine:
            await self._models.set_engine(present.id, row.engine)
        if request.keep_alive is not None:
            await self.set_keep_alive(present.id, request.keep_alive)
        await self.refer(present, request)
        return Registered(present, existing=True)

    async def set_keep_alive(self, model_id: str, keep_alive_s: float | None) -> None:
        """For how long the model stays loaded when nobody uses it. Raises NotFound; Invalid for an adapter."""
        row = await self._models.get(model_id)
        if row.base_model is not None:
            raise Invalid(f"keep_alive: an adapter stays as long as its base, {row.base_model}")
        await self._models.set_keep_alive(model_id, keep_alive_s)

    async def keep_alive_s(self, model: ModelRef) -> float | None:
        """What the model, or an adapter's base, is registered with."""
        row = await self._models.find((model.base or model).id)
        return row.keep_alive_s if row is not None else None

    async def row_for(self, request: RegisterRequest, folder: Path) -> ModelRow:
        """What registering the folder would write down; nothing is written. Raises Invalid."""
        content = await self.inspect(folder)
        if content.path != folder:
            raise Invalid(f"path: {folder} became a link to {content.path} while it was read")
        row = await (
            self._adapter_row(request, content)
            if isinstance(content, Adapter)
            else self._checkpoint_row(request, content)
        )
        row.created_at = self._clock()
        return row

    async def is_as_asked(self, present: ModelRow, request: RegisterRequest, content: Content) -> bool:
        """Whether the model is what registering the content so would make of it. Raises Invalid, GatewayUnavailable."""
        asked = with_its_engine(with_its_template(request, present), present)
        if isinstance(content, Adapter):
            base = await self.base_for(asked.base_model, content.base_name)
            digest = adapted_digest(content, base.digest)
        else:
            digest = quantized_digest(content.digest, await self._quantize_for(asked, content))
            digest = engine_digest(digest, asked.engine)
        return present.digest == templated_digest(digest, asked.chat_template)

    async def digest_of(self, row: ModelRow, content: Content) -> str:
        """The digest that the row has if this is its content."""
        if isinstance(content, Adapter):
            base = await self._models.find(row.base_model) if row.base_model else None
            digest = adapted_digest(content, base.digest) if base else content.digest
        else:
            digest = engine_digest(quantized_digest(content.digest, _quantize(row)), engine_of(row))
        return templated_digest(digest, row.chat_template)

    async def reference_to(self, row: ModelRow, content: Content) -> ModelRef:
        """The model as the gateway takes it, an adapter with its base. Raises Invalid when the base has changed."""
        if isinstance(content, Adapter):
            base = await self.proven(row.base_model or "")
            return ModelRef(id=row.id, path=row.path, digest=row.digest, base=base, chat_template=row.chat_template)
        quantize = _quantize(row)
        engine = engine_of(row)
        template = self.templates.in_place_of_its_own(row.chat_template, content.has_template)
        signature = templated_signature(quantized_signature(content.signature, quantize), template)
        return ModelRef(
            id=row.id,
            path=row.path,
            digest=row.digest,
            signature=engine_signature(signature, engine),
            quantize=quantize,
            engine=engine,
            chat_template=template,
        )

    async def _checkpoint_row(self, request: RegisterRequest, checkpoint: Checkpoint) -> ModelRow:
        if request.base_model is not None:
            raise Invalid("base_model: goes with a LoRA adapter, and this is a whole checkpoint")
        can = self._abilities.known
        if checkpoint.wants_code and not self._trust_remote_code and can is not None:
            check_no_remote_code({"auto_map": True, "model_type": checkpoint.model_type}, can)
        if request.probe is not None:
            _check_probe(request.probe, checkpoint)
        quantize = await self._quantize_for(request, checkpoint)
        if quantize is not None and request.probe is not None:
            raise Invalid("probe: says what the unquantised weights answer, so it cannot prove a quantised model")
        await self._check_engine(request, checkpoint.path)
        return _row(request, checkpoint, quantize)

    async def _check_engine(self, request: RegisterRequest, folder: Path) -> None:
        """Raises Invalid. Where the gateway is away it is left for when the model is loaded, and a warning says so."""
        self._engine_unchecked.discard(request.id)
        engine = request.engine
        if engine is None or not (engine.args or engine.tool_call_parser or engine.reasoning_parser or engine.devices):
            return
        if request.quantize != "no" and "quantization" in engine.args:
            raise Invalid("quantize: goes with `no` where engine.args.quantization is given")
        if not await self._abilities.check_engine(engine, folder):
            self._engine_unchecked.add(request.id)

    async def check_engine(self, engine: EngineOverrides | None) -> None:
        """Of a model whose files are not here yet. Raises Invalid."""
        if engine is not None and (engine.args or engine.devices):
            await self._abilities.check_engine(engine)

    async def _adapter_row(self, request: RegisterRequest, adapter: Adapter) -> ModelRow:
        if request.quantize not in {"no", "auto"}:
            raise Invalid("quantize: an adapter is as its base is")
        if request.keep_alive is not None:
            raise Invalid("keep_alive: an adapter stays as long as its base")
        if request.engine is not None:
            raise Invalid("engine: an adapter runs in the engine of its base")
        base = await self.base_for(request.base_model, adapter.base_name)
        check_rank(adapter, self._max_loras, self._max_lora_rank)
        folder = Path(base.path)
        check_fits(adapter, base.id, await asyncio.to_thread(tensors_of, folder))
        if request.probe is not None:
            checkpoint = await self.inspect(folder)
            assert isinstance(checkpoint, Checkpoint)
            _check_probe(request.probe, checkpoint)
        return ModelRow(
            id=request.id,
            path=str(adapter.path),
            source=request.source,
            tags=request.tags,
            step=request.step,
            digest=templated_digest(adapted_digest(adapter, base.digest), request.chat_template),
            architecture=base.architecture,
            dtype=base.dtype,
            quantization=base.quantization,
            quantize=None,
            base_model=base.id,
            chat_template=request.chat_template,
            has_template=await asyncio.to_thread(brings_another, adapter.path, folder, base.chat_template),
            size_bytes=adapter.size_bytes,
            context_length_tokens=base.context_length_tokens,
        )

    async def base_for(self, named: str | None, trainers_name: str | None) -> ModelRow:
        """The base that an adapter's registration names, else the registered model that its trainer's name means.

        Raises Invalid.
        """
        trainers_name = trainers_name or ""
        wanted = [named] if named else [trainers_name, id_of_repository(trainers_name), Path(trainers_name).name]
        for name in wanted:
            base = await self._models.find(await self.resolve(name) if name == ACTIVE_ALIAS else name)
            if base is not None and base.base_model is None:
                return base
            if base is not None:
                raise Invalid(f"base_model: {name} is an adapter itself")
        if named:
            raise Invalid(f"base_model: no model is registered as {named!r}")
        raise Invalid(
            f"base_model: the adapter's base is called {trainers_name or 'nothing'} in {ADAPTER_CONFIG}"
            " and no such model is registered: name the registered one"
        )

    async def _quantize_for(self, request: RegisterRequest, checkpoint: Checkpoint) -> Quantize | None:
        return await self.choose_quantize(request.quantize, checkpoint.size_bytes, checkpoint.quantization)

    async def choose_quantize(
        self, wish: QuantizeWish, weights_bytes: int, quantization: str | None
    ) -> Quantize | None:
        """How weights of this size are to be loaded. Raises Invalid, and GatewayUnavailable where only it could say."""
        needed = needs_capabilities(wish, weights_bytes, self._q4_threshold_bytes)
        can = await self._abilities.get() if needed else self._abilities.known
        check_servable(quantization=quantization, can=can)
        return choose(
            wish,
            weights_bytes=weights_bytes,
            quantization=quantization,
            threshold_bytes=self._q4_threshold_bytes,
            can=can,
        )

    async def inspect(self, folder: Path) -> Content:
        """Raises Invalid. Reads the files in threads of its own: it may take minutes, and others wait for a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, _inspect, folder, self._cache)

    async def proven(self, model_id: str) -> ModelRef:
        """The model as the gateway takes it, its files just checked against what was registered.

        Raises NotFound, and Invalid when the files are gone or have changed.
        """
        row = await self._models.get(model_id)
        content = await self.inspect(Path(row.path))
        if await self.digest_of(row, content) != row.digest:
            what = f"the files of {model_id} at {row.path}" + (
                f", or its base {row.base_model}," if row.base_model else ""
            )
            raise Invalid(f"{what} have changed since it was registered: register them again under a new id")
        return await self.reference_to(row, content)

    async def want_reference(self, model_id: str) -> None:
        """Has the model's reference computed if there is none. Returns at once. Raises NotFound."""
        self._want_reference(await self._models.get(model_id))

    async def resolve(self, name: str) -> str:
        """The id of a registered model; the alias of the active one is its id as of now. Raises NotFound."""
        if name == ACTIVE_ALIAS:
            active = await self._activations.active()
            if active is None:
                raise NotFound("no model is active: POST /models/set_active")
            return active.id
        return (await self._models.get(name)).id

    async def path_of(self, model_id: str) -> Path | None:
        """Where the model of that id lies; None when there is none."""
        row = await self._models.find(model_id)
        return Path(row.path) if row else None

    async def named_models(self) -> Sequence[RegisteredModel]:
        """Every model with the names that it answers to, newest first."""
        return [
            RegisteredModel(id=name, created_s=int(created_at.timestamp()), repository=_repository_of(name, source))
            for name, source, created_at in await self._models.names()
        ]

    async def remove(self, model_id: str, *, files: bool, dry_run: bool = False) -> Removal | None:
        """Forgets the model, and with `files` removes what the server put into its folder; that is the answer.

        With `dry_run` nothing is changed. Raises NotFound; Conflict when it is in use, or with `files` when its folder
        is another model's too.
        """
        if not files:
            row = await self._models.remove(model_id, dry_run=dry_run)
            removal = None
        else:
            folder = Path((await self._models.get(model_id)).path)
            async with self._placed.held(folder):
                other = await self.also_in(folder, model_id)
                if other is not None:
                    raise Conflict(f"files: {folder} is also the folder of {other}")
                row = await self._models.remove(model_id, going=folder, dry_run=dry_run)
                removal = await (self._placed.planned(folder) if dry_run else self._placed.remove(folder))
        if not dry_run:
            await self.forget_reference(row.digest)
            log.info("removed %s%s", model_id, f" and {len(removal.files)} files" if removal else "")
        return removal

    async def also_in(self, folder: Path, model_id: str | None = None) -> str | None:
        """The id of a model, other than `model_id`, that lies in the folder."""
        return await self._models.in_folder(folder, besides=model_id)

    async def refer(self, row: ModelRow, request: RegisterRequest) -> None:
        """Keeps the trainer's reference, or has one computed."""
        if request.probe is not None:
            await self._references.put(row.digest, request.probe.reference())
        else:
            self._want_reference(row)

    async def forget_reference(self, digest: str) -> None:
        """Unless a model of that content is left."""
        if not await self._models.has_content(digest):
            await self._references.forget(digest)

    def _want_reference(self, row: ModelRow) -> None:
        if row.base_model is not None:
            return  # transformers alone cannot apply an adapter
        quantization = row.quantization or row.quantize
        self._references.want(row.digest, Path(row.path), weights_bytes=row.size_bytes, quantization=quantization)

    def allowed(self, request: RegisterRequest) -> Path:
        """As ModelRoots.folder_of. Blocks."""
        return self._roots.folder_of(request)

    async def warnings(self, row: ModelRow) -> Sequence[str]:
        """What a person should know of a model that was, or would be, registered so."""
        base = await self._models.find(row.base_model) if row.base_model else None
        found = self.templates.warnings(row, {base.id: base} if base is not None else {})
        if row.id in self._engine_unchecked:
            found.append("engine: the gateway is away, so vLLM looks at it when the model is loaded")
        return found


def _inspect(folder: Path, cache: DigestCache) -> Content:
    return inspect_adapter(folder, cache) if is_adapter(folder) else inspect(folder, cache)


def _quantize(row: ModelRow) -> Quantize | None:
    return cast("Quantize | None", row.quantize)


def _row(request: RegisterRequest, checkpoint: Checkpoint, quantize: Quantize | None) -> ModelRow:
    return ModelRow(
        id=request.id,
        path=str(checkpoint.path),
        source=request.source,
        tags=request.tags,
        step=request.step if request.step is not None else checkpoint.step,
        digest=templated_digest(
            engine_digest(quantized_digest(checkpoint.digest, quantize), request.engine), request.chat_template
        ),
        architecture=checkpoint.architecture,
        dtype=checkpoint.dtype,
        quantization=checkpoint.quantization,
        quantize=quantize,
        base_model=None,
        engine=(request.engine.written() or None) if request.engine else None,
        keep_alive_s=request.keep_alive,
        chat_template=request.chat_template,
        has_template=checkpoint.has_template,
        size_bytes=checkpoint.size_bytes,
        context_length_tokens=checkpoint.context_length_tokens,
    )


def _repository_of(model_id: str, source: str) -> str | None:
    """`org/name` of a model that was pulled and has the id of that."""
    repository = source.removeprefix(HUB_SOURCE).partition("@")[0]
    was_pulled = source.startswith(HUB_SOURCE) and "/" in repository
    return repository if was_pulled and id_of_repository(repository) == model_id else None


def _check_probe(probe: Probe, checkpoint: Checkpoint) -> None:
    """Raises Invalid when the checkpoint cannot take the probe's tokens."""
    if (misfit := probe.misfit(checkpoint.vocab_size, checkpoint.context_length_tokens)) is not None:
        raise Invalid(misfit)
