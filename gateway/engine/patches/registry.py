"""All changes to vLLM's behaviour, in the order in which they are made, and which of them are in force."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.engine.patches import (
    adapter_front,
    bounded_templates,
    clean_blocks,
    cpu_norms,
    environment,
    experts_without_lora,
    fewer_layers,
    fewer_lookups,
    finite_answers,
    forked_engines,
    grammar_budget,
    grammar_compiling,
    grammar_trials,
    lasting_metrics,
    long_texts_in_turn,
    metered_outputs,
    model_identity,
    no_compiler,
    one_process,
    own_logprobs,
    prefill,
    probe_places,
    process_guard,
    replies_of_all_ranks,
    rewindable_generators,
    set_aside,
    short_routes,
    step_sizes,
    surviving_server,
    whole_answers,
)
from gateway.engine.patches.patch import Patch
from stepserve.settings import EnginePatches, EngineSettings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

OFF_VARIABLE = "STEPSERVE_PATCHES_OFF"

PATCHES: tuple[Patch, ...] = (
    # Needed for right answers or for the server's life.
    environment.PATCH,
    process_guard.PATCH,
    surviving_server.PATCH,
    lasting_metrics.PATCH,
    model_identity.PATCH,
    metered_outputs.PATCH,
    adapter_front.PATCH,
    rewindable_generators.PATCH,
    own_logprobs.PATCH,
    experts_without_lora.PATCH,
    replies_of_all_ranks.PATCH,
    set_aside.PATCH,
    # Can be switched off.
    forked_engines.PATCH,
    one_process.PATCH,
    cpu_norms.PATCH,
    no_compiler.PATCH,
    step_sizes.PATCH,
    probe_places.PATCH,
    whole_answers.PATCH,
    finite_answers.PATCH,
    clean_blocks.PATCH,
    fewer_lookups.PATCH,
    long_texts_in_turn.PATCH,
    bounded_templates.PATCH,
    grammar_trials.PATCH,
    grammar_compiling.PATCH,
    grammar_budget.PATCH,
    fewer_layers.PATCH,
    short_routes.PATCH,
    prefill.PATCH,
)


@dataclass(frozen=True, slots=True)
class ActivePatches:
    """The patches in force for an engine; each method runs their hooks at one place."""

    patches: tuple[Patch, ...]

    @classmethod
    def of(cls, settings: EnginePatches) -> "ActivePatches":
        return cls(tuple(patch for patch in PATCHES if patch.required or patch.name not in settings.off))

    @classmethod
    def here(cls) -> "ActivePatches":
        """By the environment of this process, which is an engine's: as the gateway had `announce`d."""
        off = os.environ.get(OFF_VARIABLE, "").split(",")
        return cls(tuple(patch for patch in PATCHES if patch.required or patch.name not in off))

    def __contains__(self, name: str) -> bool:
        return any(patch.name == name for patch in self.patches)

    def announce(self) -> None:
        """Tells the processes that this one starts from now on."""
        os.environ[OFF_VARIABLE] = ",".join(patch.name for patch in PATCHES if patch.name not in self)

    def before_engine(self, settings: EngineSettings) -> None:
        for patch in self.patches:
            if patch.before_engine is not None:
                patch.before_engine(settings)

    def on_config(self, config: "VllmConfig", settings: EngineSettings) -> None:
        for patch in self.patches:
            if patch.on_config is not None:
                patch.on_config(config, settings)

    def on_client(self, client: "AsyncLLM") -> None:
        for patch in self.patches:
            if patch.on_client is not None:
                patch.on_client(client)

    def on_app(self, app: "FastAPI") -> None:
        for patch in self.patches:
            if patch.on_app is not None:
                patch.on_app(app)

    def in_engine(self) -> None:
        for patch in self.patches:
            if patch.in_engine is not None:
                patch.in_engine()

    def in_worker(self) -> None:
        for patch in self.patches:
            if patch.in_worker is not None:
                patch.in_worker()


def report(settings: EnginePatches) -> list[dict[str, Any]]:
    """What /diag says of each: whether it is in force, and what it changes."""
    active = ActivePatches.of(settings)
    return [
        {"name": patch.name, "active": patch.name in active, "required": patch.required, "changes": patch.changes}
        for patch in PATCHES
    ]
