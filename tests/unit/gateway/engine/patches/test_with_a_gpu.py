"""What is changed of vLLM for the CPU's sake stays as vLLM has it where there is a GPU. The platform is a fake."""

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.engine.patches.clean_blocks import clean_blocks
from gateway.engine.patches.cpu_norms import norm_by_kernels, register_kernels
from gateway.engine.patches.experts_without_lora import PATCH as EXPERTS
from gateway.engine.patches.finite_answers import count_by_sums
from gateway.engine.patches.no_compiler import compile_nothing
from gateway.engine.patches.rewindable_generators import make_generators_rewindable
from gateway.engine.patches.step_sizes import allow_large_steps, size_steps
from stepserve.settings import EngineSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of itself while vLLM imports it
    import torch
    import vllm.platforms
    from vllm import ir
    from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.worker import gpu_model_runner
    from vllm.v1.worker.cpu_worker import CPUWorker


def watched() -> list[Any]:
    return [
        torch.Generator,
        Scheduler.schedule,
        KVCacheConfig.needs_kv_cache_zeroing,
        gpu_model_runner.count_nans_per_row,
        vars(FusedMoEConfig).get("is_lora_enabled"),
        sorted(ir.ops.rms_norm.impls),
        CPUWorker.load_model,
    ]


@pytest.fixture(autouse=True)
def _with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm.platforms, "current_platform", SimpleNamespace(is_cpu=lambda: False), raising=False)


@pytest.mark.parametrize(
    "change",
    [
        clean_blocks,
        register_kernels,
        count_by_sums,
        compile_nothing,
        make_generators_rewindable,
        size_steps,
        *(hook for hook in (EXPERTS.in_engine, EXPERTS.in_worker) if hook is not None),
    ],
    ids=lambda change: f"{change.__module__.rpartition('.')[2]}.{change.__name__}",
)
def test_nothing_of_a_process_is_changed(change: Callable[[], None]) -> None:
    before = watched()
    change()
    assert watched() == before


@pytest.mark.parametrize("change", [norm_by_kernels, allow_large_steps])
def test_nothing_of_a_configuration_is_read_or_changed(change: Callable[[Any, EngineSettings], None]) -> None:
    change(None, EngineSettings())
