"""Structured requests wait for the trial of their grammar before the engine gets them (gateway.engine.structured)."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from gateway.engine.patches.patch import Patch

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


def try_grammars(client: "AsyncLLM", check: Callable[[Any], Awaitable[None]], is_probe: Callable[[str], bool]) -> None:
    """From now on `add_request`, through which every request goes, awaits `check` of its sampling parameters first.

    `is_probe`: whether the request of that id goes in without a trial.
    """
    add = client.add_request

    async def checked(request_id: str, prompt: Any, params: Any, *args: Any, **options: Any) -> Any:
        if getattr(params, "structured_outputs", None) is not None and not is_probe(request_id):
            await check(params)
        return await add(request_id, prompt, params, *args, **options)

    client.add_request = checked


PATCH = Patch(
    name="grammar_trials",
    changes="`AsyncLLM.add_request` has each new grammar compiled and followed in a process aside, with a deadline.",
    why="vLLM checks a schema in the event loop and compiles it in a thread that nothing can stop; if that fails it"
    " answers 500.",
    without="One hostile schema can hold up all structured requests, or the event loop; some refusals are a 500.",
    gain="Not a matter of speed: an ordinary schema takes 20 to 60 ms once, and nothing again.",
    goes_when="vLLM compiles grammars with a deadline, away from event loop and engine, and answers 400.",
    targets={
        "vllm.v1.engine.async_llm:AsyncLLM.add_request": "ec36c4501b32",
        "vllm.sampling_params:SamplingParams._validate_structured_outputs": "ebca6891dea0",
    },
)
