"""Registered models as GET /models shows them."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from control.clock import iso
from control.database.tables import ModelRow
from control.models.activation_log import ActivationLog
from control.models.capabilities import EngineAbilities, backend_of
from control.models.registry import Registry
from control.models.repository import ModelRepository
from stepserve.contract import GatewayState, SlotState


class ModelListing:
    def __init__(
        self, models: ModelRepository, registry: Registry, activations: ActivationLog, abilities: EngineAbilities
    ) -> None:
        self._models = models
        self._registry = registry
        self._activations = activations
        self._abilities = abilities

    async def every(self, state: GatewayState | None) -> AsyncIterator[list[dict[str, Any]]]:
        """Every model, newest first, some at a time; `state` None: nothing is known to be loaded."""
        active_id = await self._active_id()
        slots = _slots(state)
        bases = await self._models.bases()
        async for rows in self._models.newest_first():
            yield [self._entry(row, active_id, slots, bases) for row in rows]

    async def one(self, name: str, state: GatewayState | None) -> dict[str, Any]:
        """The model of that id, or the active one. Raises NotFound."""
        row = await self._models.get(await self._registry.resolve(name))
        base = await self._models.find(row.base_model) if row.base_model is not None else None
        bases = {base.id: base} if base is not None else {}
        return self._entry(row, await self._active_id(), _slots(state), bases)

    async def _active_id(self) -> str | None:
        active = await self._activations.active()
        return active.id if active is not None else None

    def _entry(
        self,
        row: ModelRow,
        active_id: str | None,
        slots: Mapping[tuple[str, str], SlotState],
        bases: Mapping[str, ModelRow],
    ) -> dict[str, Any]:
        slot = slots.get((row.id, row.digest))
        templates = self._registry.templates
        return {
            "id": row.id,
            "model": row.id,
            "path": row.path,
            "source": row.source,
            "created_at": iso(row.created_at),
            "tags": row.tags,
            "step": row.step,
            "is_active": row.id == active_id,
            "loaded": slot is not None and slot.phase in {"ready", "draining"},
            "backend": backend_of(row.architecture, self._abilities.known),
            "size_bytes": row.size_bytes,
            "digest": row.digest,
            "architecture": row.architecture,
            "quantization": row.quantization or row.quantize,
            "base_model": row.base_model,
            "engine": row.engine,
            "keep_alive": row.keep_alive_s,
            "chat_template": templates.origin(row, bases),
            "warnings": templates.warnings(row, bases),
            "load_duration": slot.load_duration_s if slot else None,
            "local_path": row.path,
        }


def _slots(state: GatewayState | None) -> dict[tuple[str, str], SlotState]:
    return {(slot.model.id, slot.model.digest): slot for slot in (state.slots if state else [])}
