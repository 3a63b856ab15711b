"""What a model can do besides text, as Ollama's clients ask: tools, thinking, pictures."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from gateway.dialects.call import Json
from gateway.dialects.served import Served
from gateway.errors import InvalidRequest
from gateway.serving import parsers
from stepserve.contract import SlotState
from stepserve.settings import EngineSettings

_THINKING = ("enable_thinking", "thinking", "<think>", "reasoning_effort")
"""What templates of models that think have in them: a switch for it, or its beginning."""


@dataclass(frozen=True, slots=True)
class Abilities:
    served: Served
    engine: EngineSettings

    async def check(self, name: str, *, images: bool = False, thinks: bool = False, tools: bool = False) -> None:
        """Refuses in Ollama's words what the model that is loaded cannot do; of another nothing is known yet.

        Raises InvalidRequest.
        """
        slot = self.served.slot(name) if images or thinks or tools else None
        if slot is None:
            return
        config, template = await asyncio.to_thread(parsers.read, Path(slot.model.path))
        can = self.of(config, slot.model.chat_template or template, slot)
        if images and "vision" not in can:
            raise InvalidRequest(f"images: {name} does not support images")
        if thinks and "thinking" not in can:
            raise InvalidRequest(f"think: {name} does not support thinking")
        if tools and "tools" not in can:
            raise InvalidRequest(
                f"tools: {name} does not support tools (setting INFERENCE_ENGINE__TOOL_CALL_PARSER is not set)"
            )

    def of(self, config: Json, template: str, slot: SlotState | None) -> list[str]:
        """By the checkpoint's files, and by how it is loaded where it is."""
        if slot is not None and slot.task == "embed":
            return ["embedding"]
        engine = self.engine.with_overrides(slot.model.engine if slot is not None else None)
        named = parsers.guessed(engine, config, template)
        found = {
            "completion": True,
            "tools": named["tool_call_parser"] is not None,
            "thinking": named["reasoning_parser"] is not None or any(word in template for word in _THINKING),
            "vision": "vision_config" in config,
        }
        return [name for name, there in found.items() if there]
