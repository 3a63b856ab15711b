"""GET /api/tags, /api/ps, /api/version and POST /api/show: the models as Ollama's clients list them."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from gateway.dialects.call import Call, Json
from gateway.dialects.ollama.abilities import Abilities
from gateway.dialects.ollama.requests import NameRequest
from gateway.dialects.served import Served
from gateway.errors import ModelNotFound, Unserved
from gateway.serving import parsers
from gateway.sidecar.control_link import ControlProxy
from stepserve import __version__
from stepserve.contract import SlotState, id_of_repository

_FOREVER = "2318-01-01T00:00:00Z"  # Ollama's way to say that a model is not unloaded by itself
_EPOCH = "1970-01-01T00:00:00Z"
_BYTES_PER_PARAMETER = {"float32": 4, "float16": 2, "bfloat16": 2}
_INFO = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered model; as much as is known of it while control is away."""

    id: str
    digest: str
    path: str
    size_bytes: int
    created_at: str


@dataclass(frozen=True, slots=True)
class Models:
    served: Served
    control: ControlProxy
    abilities: Abilities
    version_number: str

    async def tags(self, call: Call, _: None) -> None:
        """Every registered model, and after them `active` and the aliases under their own names."""
        entries = {entry.id: entry for entry in await self._entries()}
        models = [await self._card(entry, entry.id) for entry in entries.values()]
        for name in self.served.names():
            slot = self.served.slot(name)
            target = slot.model.id if slot else self.served.naming.target(name)
            if target in entries:
                models.append(await self._card(entries[target], name))
        await call.answer({"models": models})

    async def ps(self, call: Call, _: None) -> None:
        """What is loaded."""
        models = []
        for slot in self.served.slots():
            card = await self._card(_of_slot(slot), slot.model.id)
            del card["modified_at"]
            models.append(
                card | {"expires_at": _FOREVER, "size_vram": card["size"], "context_length": slot.max_model_len_tokens}
            )
        await call.answer({"models": models})

    async def show(self, call: Call, request: NameRequest) -> None:
        """Raises ModelNotFound."""
        name = request.named()
        entry = await self.entry(name)
        config, template = await asyncio.to_thread(parsers.read, Path(entry.path))
        slot = self.served.slot(name)
        template = (slot.model.chat_template if slot else None) or template
        await call.answer(
            {
                "modelfile": f"FROM {entry.path}\n",
                "parameters": "",
                "template": template,
                "license": "",
                "details": _details(config, entry.size_bytes),
                "model_info": _info(config, entry.size_bytes),
                "capabilities": self.abilities.of(config, template, slot),
                "modified_at": entry.created_at,
            }
        )

    async def version(self, call: Call, _: None) -> None:
        """An Ollama's that clients take for new enough, and ours."""
        await call.answer({"version": self.version_number, "stepserve": __version__})

    async def _card(self, entry: Entry, name: str) -> Json:
        config, _ = await asyncio.to_thread(parsers.read, Path(entry.path))
        return {
            "name": name,
            "model": name,
            "modified_at": entry.created_at,
            "size": entry.size_bytes,
            "digest": entry.digest.removeprefix("sha256:"),
            "details": _details(config, entry.size_bytes),
        }

    async def entry(self, name: str) -> Entry:
        entries = await self._entries()
        slot = self.served.slot(name)
        target = slot.model.id if slot else self.served.naming.target(name)
        for entry in entries:
            if target and entry.id in (target, id_of_repository(target)):
                return entry
        raise ModelNotFound(name, [*(entry.id for entry in entries), *self.served.names()])

    async def _entries(self) -> list[Entry]:
        """From control, and while that is away of what is loaded."""
        try:
            answer = await self.control.request("GET", "/models")
        except Unserved:
            answer = None
        if answer is None or answer.status_code != 200:
            return [_of_slot(slot) for slot in self.served.slots()]
        keys = ("id", "digest", "path", "size_bytes", "created_at")
        return [Entry(**{key: model[key] for key in keys}) for model in answer.json()["models"]]


def _of_slot(slot: SlotState) -> Entry:
    signature = slot.model.signature
    size_bytes = signature.weights_bytes if signature else 0
    return Entry(slot.model.id, slot.model.digest, slot.model.path, size_bytes, _EPOCH)


def _parameters(config: Json, size_bytes: int) -> int:
    """About how many there are, by the size of the files."""
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return size_bytes // _BYTES_PER_PARAMETER.get(dtype, 2)


def _details(config: Json, size_bytes: int) -> Json:
    family = str(config.get("model_type", "unknown"))
    quantization = config.get("quantization_config") or {}
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": _rounded(_parameters(config, size_bytes)),
        "quantization_level": str(quantization.get("quant_method") or config.get("dtype") or "bfloat16"),
    }


def _info(config: Json, size_bytes: int) -> Json:
    family = str(config.get("model_type", "unknown"))
    info: Json = {
        "general.architecture": family,
        "general.parameter_count": _parameters(config, size_bytes),
    }
    return info | {f"{family}.{ours}": config[theirs] for ours, theirs in _INFO.items() if theirs in config}


def _rounded(count: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
