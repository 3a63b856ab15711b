"""A reload in place and a fresh engine, by architecture: `python -m tests.e2e.architectures_run KIND …`.

vLLM's real worker and kernels, with two tiny random checkpoints of each kind (benchmarks.tiny_checkpoints); a kind with
experts is started as one that takes adapters. `python -m benchmarks.architectures` measures all kinds. Prints JSON.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor import Executor

from benchmarks.tiny_checkpoints import build
from gateway.engine.config import engine_config
from gateway.engine.fork_server import for_gpu
from gateway.engine.process.guard import GUARD_VARIABLE
from stepserve.contract import ModelRef
from stepserve.difference import compare
from stepserve.settings import EngineSettings
from tests.e2e.adapters import write_adapter

PROMPTS = [list(range(start, start + 48)) for start in (40, 60, 80, 100)]  # longer than a sliding window


def start(path: Path, settings: EngineSettings) -> LLMEngine:
    config = engine_config(ModelRef(id="tiny", path=str(path), digest="-"), settings)[1]
    return LLMEngine(config, Executor.get_class(config), log_stats=False, usage_context=UsageContext.LLM_CLASS)


def said(engine: LLMEngine, lora: LoRARequest | None = None) -> list[list[float]]:
    """The log-probabilities of the prompts' tokens: [n_prompts][n_tokens - 1]."""
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False)
    for number, token_ids in enumerate(PROMPTS):
        prompt: Any = {"prompt_token_ids": token_ids}
        engine.add_request(str(number), prompt, params, lora_request=lora)
    logprobs: dict[str, list[float]] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                logprobs[output.request_id] = list(output.prompt_logprobs.logprobs)
    return [logprobs[str(number)] for number in range(len(PROMPTS))]


def made_ready(engine: LLMEngine, path: Path) -> str | None:
    """Why the checkpoint could not be made ready before a reload; None: it is."""
    cpus = sorted(os.sched_getaffinity(0))
    reason: str | None = engine.collective_rpc("stepserve_stage", args=(str(path), None, cpus))[0]
    if reason is None:
        reason = "running"
        while reason == "running":
            (reason,) = engine.collective_rpc("stepserve_staged")
    return None if reason == "ready" else reason


def measure(kind: str, folder: Path) -> dict[str, Any]:
    one, other = (build(kind, seed, folder / f"{kind.replace(' ', '-')}-{seed}") for seed in (1, 2))
    has_experts = "moe" in kind
    settings = EngineSettings(max_loras=1 if has_experts else 0)
    engine = start(one, settings)
    seen: dict[str, Any] = {"obstacle": next(iter(engine.collective_rpc("stepserve_reload_obstacle")), None)}
    before = said(engine)
    engine.collective_rpc("stepserve_reload", args=(str(other),))
    engine.reset_prefix_cache()
    in_place = said(engine)
    engine.collective_rpc("stepserve_reload", args=(str(one),))
    seen["why not ready"] = made_ready(engine, other)
    engine.reset_prefix_cache()
    seen["meanwhile"] = said(engine) == before
    engine.collective_rpc("stepserve_reload", args=(str(other),))
    engine.reset_prefix_cache()
    ready = said(engine)
    engine.engine_core.shutdown()
    engine = start(other, settings)
    fresh = said(engine)
    if has_experts:
        write_adapter(folder / "adapter", strength=1.0)
        changed = said(engine, LoRARequest("adapter", 1, str(folder / "adapter")))
        seen["adapted"] = compare(changed, fresh).mean
    engine.engine_core.shutdown()
    return seen | {"in place": in_place == fresh, "made ready": ready == fresh, "other": compare(before, fresh).mean}


def main(kinds: list[str]) -> None:
    if for_gpu():
        print(json.dumps(None))
        return
    os.environ[GUARD_VARIABLE] = str(os.getppid())
    with tempfile.TemporaryDirectory(prefix="stepserve-architectures-") as folder:
        print(json.dumps({kind: measure(kind, Path(folder)) for kind in kinds}), flush=True)
    os._exit(0)  # several engines in one process leave threads that wait for each other


if __name__ == "__main__":
    main(sys.argv[1:])
