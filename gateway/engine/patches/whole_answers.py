"""Answers that nobody reads along leave the engine when they are complete (gateway.engine.whole)."""

from typing import TYPE_CHECKING, Any

from gateway.engine.patches.patch import Patch

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.outputs import ModelRunnerOutput


def keep_whole() -> None:
    """For this process, which is an engine's."""
    from vllm.v1.core.sched.scheduler import Scheduler

    from gateway.engine.whole import Whole

    update = Scheduler.update_from_output

    def update_from_output(
        scheduler: "Scheduler", scheduler_output: "SchedulerOutput", model_output: "ModelRunnerOutput"
    ) -> "dict[int, EngineCoreOutputs]":
        by_client: dict[int, EngineCoreOutputs] = update(scheduler, scheduler_output, model_output)
        wholes: dict[int, Whole] = scheduler.__dict__.setdefault("stepserve_wholes", {})
        for client, outputs in by_client.items():
            if client not in wholes:
                wholes[client] = Whole()
            outputs.outputs = wholes[client].filtered(outputs.outputs, scheduler.requests, outputs.timestamp)
        return by_client

    Scheduler.update_from_output = update_from_output


def note_first_tokens(processor: Any) -> None:
    """Has an OutputProcessor note the times of tokens that came together as if each had come by itself."""
    from gateway.engine.whole import FIRST_TOKEN

    note = processor._update_stats_from_output

    def noted(request: Any, output: "EngineCoreOutput", timestamp: float | None, stats: Any) -> None:
        note(request, output, timestamp, stats)
        tokens = len(output.new_token_ids)
        if stats is None or timestamp is None or tokens < 2:
            return
        between = stats.inter_token_latencies_iter
        if not request.is_prefilling:
            between += [between.pop() / tokens] * tokens
        elif first_token_s := (output.trace_headers or {}).get(FIRST_TOKEN):
            since_s = timestamp - float(first_token_s)
            request.stats.first_token_ts -= since_s
            request.stats.first_token_latency -= since_s
            stats.time_to_first_tokens_iter[-1] -= since_s
            between += [since_s / (tokens - 1)] * (tokens - 1)

    processor._update_stats_from_output = noted


def _on_client(client: "AsyncLLM") -> None:
    note_first_tokens(client.output_processor)


PATCH = Patch(
    name="whole_answers",
    changes="The scheduler sends an answer that is not streamed and has no stop strings once, or every 64 tokens.",
    why="vLLM sends each token of each request by itself, also to a front end that keeps them until the last has come.",
    without="More of the gateway's processor time goes to jobs. Answers are the same.",
    gain="0.53 ms of the gateway's time a sample instead of 0.60, together with `fewer_lookups` (decision 26).",
    goes_when="vLLM's engine sends FINAL_ONLY requests once.",
    targets={
        "vllm.v1.core.sched.scheduler:Scheduler.update_from_output": "85b29db96051",
        "vllm.v1.engine.output_processor:OutputProcessor._update_stats_from_output": "715cea2fc152",
        "vllm.v1.engine:EngineCoreOutput": "d5b3ee3647b9",
        "vllm.v1.metrics.stats:IterationStats.update_from_output": "fed7aa8f8bb8",
    },
    on_client=_on_client,
    in_engine=keep_whole,
)
