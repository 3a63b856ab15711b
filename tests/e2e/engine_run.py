"""Steps and norms of an engine on the CPU, in a process of its own: `python -m tests.e2e.engine_run CHECKPOINT`.

vLLM's real scheduler, worker and kernels, put together from what the gateway configures and what its plugin does.
Prints JSON.
"""

import json
import os
import sys
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from vllm import SamplingParams, ir
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor

from gateway.engine.config import engine_config
from gateway.engine.fork_server import for_gpu
from gateway.engine.process.guard import GUARD_VARIABLE
from stepserve.contract import BATCH_PRIORITY, ModelRef
from stepserve.settings import EngineSettings

PROMPT_TOKENS = 48
ANSWERS = 700
FULL = 20
NUMBERS = count()


def add(core: EngineCore, priority: int, max_tokens: int = 2) -> str:
    """A prompt of 48 tokens that has no block of tokens in common with another; returns the request's id."""
    number = next(NUMBERS)
    asked = EngineCoreRequest(
        request_id=str(number),
        prompt_token_ids=[number // 200, number % 200, *range(PROMPT_TOKENS - 2)],
        mm_features=None,
        sampling_params=SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
        priority=priority,
    )
    core.add_request(*core.preprocess_add_request(asked))
    return str(number)


def steps(core: EngineCore) -> Iterator[dict[str, int]]:
    """Each step until nothing is left: how many tokens were computed for each request, by id."""
    seen: list[dict[str, int]] = []
    schedule = core.scheduler.schedule

    def watched(*args: Any) -> Any:
        scheduled = schedule(*args)
        seen.append(scheduled.num_scheduled_tokens)
        return scheduled

    core.scheduler.schedule = watched
    while core.scheduler.has_requests():
        core.step()
        yield seen[-1]
    core.scheduler.schedule = schedule


def sizes_of(core: EngineCore, priorities: list[int]) -> list[int]:
    """The tokens of each step while requests of these priorities are computed."""
    for priority in priorities:
        add(core, priority)
    return [sum(step.values()) for step in steps(core)]


def late(core: EngineCore) -> list[int]:
    """The tokens that a person's request got, and all tokens, in the first step after it came to so many answers."""
    for _ in range(ANSWERS):
        add(core, BATCH_PRIORITY, max_tokens=40)
    person = None
    firsts: list[int] = []
    for step in steps(core):
        if person is not None and not firsts:
            firsts = [step.get(person, 0), sum(step.values())]
        if person is None and len(step) == sum(step.values()) == ANSWERS:
            person = add(core, 0)
    return firsts


def probed(core: EngineCore) -> list[int]:
    """The tokens that a probe got, and how many others, in the first step after it came to an engine that was full."""
    core.scheduler.scheduler_config.max_num_active_seqs = FULL
    for _ in range(2 * FULL):
        add(core, 0, max_tokens=40)
    probe = None
    seen: list[int] = []
    for step in steps(core):
        if probe is not None and not seen:
            seen = [step.get(probe, 0), len(step) - 1]
        if probe is None and len(step) == FULL:
            probe = add(core, -1)
    return seen


def norm_difference(x: torch.Tensor, weight: torch.Tensor | None) -> float:
    """Between the norm that an engine takes and PyTorch's, in units of the latter's size; also of the fused one."""
    native, fused = ir.ops.rms_norm.impls["native"].impl_fn, ir.ops.fused_add_rms_norm
    residual = torch.randn(x.shape).to(x.dtype)
    pairs = [(ir.ops.rms_norm(x, weight, 1e-6), native(x, weight, 1e-6))]
    expected = fused.impls["native"].impl_fn(x, residual, weight, 1e-6)
    pairs += zip(fused.maybe_inplace(x.clone(), residual.clone(), weight, 1e-6), expected, strict=True)
    difference: float = max(((one - other).abs() / (1 + other.abs())).max().item() for one, other in pairs)
    return difference


def norms() -> dict[str, float]:
    torch.manual_seed(0)
    differences: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows = torch.randn(9, 384).to(dtype)
        weight = torch.randn(128).to(dtype)
        name = str(dtype).removeprefix("torch.")
        differences |= {
            f"{name} rows": norm_difference(rows[:, :128].contiguous(), weight),
            f"{name} parts of rows": norm_difference(rows[:, 128:256], weight),
            f"{name} heads": norm_difference(rows[:, :256].view(9, 8, 32), weight[:32]),
            f"{name} odd": norm_difference(rows[:, :33].contiguous(), weight[:33]),
            f"{name} without weight": norm_difference(rows, None),
            f"{name} weight of another type": norm_difference(rows[:, :128].contiguous(), weight.to(torch.float16)),
        }
    return differences


def main(checkpoint: str) -> None:
    if for_gpu():
        print(json.dumps(None))
        return
    os.environ[GUARD_VARIABLE] = str(os.getppid())
    settings = EngineSettings(max_num_seqs=1024)
    config = engine_config(ModelRef(id="demo", path=checkpoint, digest="-"), settings)[1]
    core = EngineCore(config, Executor.get_class(config), log_stats=False)
    sizes = {
        "jobs": sizes_of(core, [BATCH_PRIORITY] * 200),
        "people": sizes_of(core, [0] * 100),
        "both": sizes_of(core, [*[BATCH_PRIORITY] * 200, 0]),
        "late": late(core),
        "probed": probed(core),
    }
    taken = [ir.ops.rms_norm.get_priority(), ir.ops.fused_add_rms_norm.get_priority()]
    print(
        json.dumps(
            {
                "prompt_tokens": PROMPT_TOKENS,
                "answers": ANSWERS,
                "full": FULL,
                "steps": sizes,
                "norms": norms(),
                "priorities": taken,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
