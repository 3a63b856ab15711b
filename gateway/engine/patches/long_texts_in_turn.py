"""Long texts are tokenized one after the other, whichever requests they are of, and short ones beside them."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gateway.engine.patches.patch import Patch
from stepserve.settings import EngineSettings

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

_LONG_CHARS = 64 * 1024  # of a request; tokenized in some 20 ms
_RENDERERS = 2  # threads that render templates and tokenize: one for long texts, one for short ones


def render_in_two_threads(config: "VllmConfig", _settings: EngineSettings) -> None:
    if config.model_config.runner_type != "pooling":  # there vLLM refuses it with pictures
        config.model_config.renderer_num_workers = _RENDERERS


def long_texts_in_turn(renderer: Any) -> None:
    """Changes this renderer's `tokenize_prompts_async`, which whoever waits for an answer goes through.

    vLLM puts all texts of all requests into the queue of a few threads, and a short one waits for all that came before
    it. Of the two threads there are this leaves one to short texts. A text whose client has left is tokenized to its
    end all the same, since no thread can be stopped, and keeps its turn until then.
    """
    at_once = renderer.tokenize_prompts_async
    turn = asyncio.Lock()

    def ended(work: "asyncio.Future[Any]") -> None:
        turn.release()
        if not work.cancelled():
            work.exception()  # looked at, in case that nobody waits for it any more

    async def in_turn(prompts: Sequence[Any], params: Any) -> Any:
        if sum(_chars(prompt) for prompt in prompts) <= _LONG_CHARS:
            return await at_once(prompts, params)
        tokenized = []
        for prompt in prompts:
            await turn.acquire()
            work = asyncio.ensure_future(at_once([prompt], params))
            work.add_done_callback(ended)
            tokenized += await asyncio.shield(work)
        return tokenized

    renderer.tokenize_prompts_async = in_turn


def _chars(prompt: Any) -> int:
    text = prompt.get("prompt")
    return len(text) if isinstance(text, str) else 0


def _on_client(client: "AsyncLLM") -> None:
    long_texts_in_turn(client.renderer)


PATCH = Patch(
    name="long_texts_in_turn",
    changes="Two renderer threads; texts of more than 64 Ki characters are tokenized one at a time.",
    why="vLLM queues all texts of all requests for one thread: a short text waits for every long one before it.",
    without="Somebody's long texts delay everybody's short requests.",
    gain="Beside long texts a short one waits for none of them (test_long_texts_in_turn.py, benchmarks/abuse.py).",
    goes_when="vLLM tokenizes short texts before long ones.",
    targets={
        "vllm.renderers.base:BaseRenderer.tokenize_prompts_async": "6f635afe4bb1",
        "vllm.renderers.base:BaseRenderer.__init__": "03e76fa330eb",
    },
    on_config=render_in_two_threads,
    on_client=_on_client,
)
