"""Steps of the engine that are as large as gateway.serving.step_size says, where vLLM has one number for all of them.

On the CPU that number is 2048 tokens for its server and 4096 for its offline `LLM`, a worker.
"""

from typing import Any

from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler

from gateway.serving.step_size import step_tokens


def allow_large_steps(config: VllmConfig) -> None:
    """Makes room for steps as vLLM's offline `LLM` takes them; those that people wait for stay as configured.

    For a model whose prompts cannot be computed in parts nothing changes.
    """
    steps = config.scheduler_config
    most_by_use, _ = AsyncEngineArgs.get_batch_defaults(config.parallel_config.world_size)
    large = min(most_by_use[UsageContext.LLM_CLASS], steps.max_num_seqs * config.model_config.max_model_len)
    if steps.enable_chunked_prefill and steps.max_num_batched_tokens < large:
        steps.max_num_scheduled_tokens = steps.max_num_batched_tokens
        steps.max_num_batched_tokens = large


def size_steps() -> None:
    """For this process, which is an engine's. An engine without room for large steps is left alone."""
    schedule = Scheduler.schedule

    def sized(scheduler: Scheduler, *args: Any, **options: Any) -> SchedulerOutput:
        steps = scheduler.scheduler_config
        usual, large = steps.max_num_scheduled_tokens, steps.max_num_batched_tokens
        if usual is not None:
            scheduler.max_num_scheduled_tokens = step_tokens(scheduler.requests.values(), usual, large)
        return schedule(scheduler, *args, **options)

    Scheduler.schedule = sized
