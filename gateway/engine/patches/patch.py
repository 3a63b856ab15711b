"""Patch: one change to vLLM's behaviour, with the reason for it, and where it is made."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stepserve.settings import EngineSettings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

SEEN_WITH = ("0.32.0",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """`name` is its file's, and its setting's: `engine.patches.<name>`; one that is `required` has no setting.

    `changes`: what of vLLM is different. `why`. `without`: what a server without it lacks; of a required one, why there
    is none. `gain`: measured, with the source. `goes_when`: what vLLM must have for this file to be deleted.
    `targets`: what it replaces or relies on, `module` or `module:name`, with its `source_digest` in the last version of
    `seen_with`.

    Hooks: `before_engine` runs in the gateway's process, before an engine is configured; `on_config` when vLLM has made
    its configuration of the settings; `on_client` and `on_app` when the front end has been made; `in_engine` in the
    process of an engine's core and `in_worker` in a worker's, before they are made. A patch without hooks is applied by
    name in gateway.engine.engine.
    """

    name: str
    changes: str
    why: str
    without: str
    gain: str
    goes_when: str
    required: bool = False
    seen_with: tuple[str, ...] = SEEN_WITH
    targets: Mapping[str, str] = field(default_factory=dict)
    before_engine: Callable[[EngineSettings], None] | None = None
    on_config: "Callable[[VllmConfig, EngineSettings], None] | None" = None
    on_client: "Callable[[AsyncLLM], None] | None" = None
    on_app: "Callable[[FastAPI], None] | None" = None
    in_engine: Callable[[], None] | None = None
    in_worker: Callable[[], None] | None = None


def find(target: str) -> Any:
    """The object that a target names. Imports its module; raises ImportError or AttributeError where it is gone."""
    module, _, path = target.partition(":")
    found: Any = import_module(module)
    for name in filter(None, path.split(".")):
        found = getattr(found, name)
    return found


def source_digest(target: str) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the target's source."""
    return hashlib.sha256(inspect.getsource(find(target)).encode()).hexdigest()[:12]
