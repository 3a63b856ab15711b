"""A last turn of the assistant's on /v1/messages is the beginning of its answer, as in Anthropic's API."""

from typing import TYPE_CHECKING, Any

from gateway.engine.patches.patch import Patch

if TYPE_CHECKING:
    from fastapi import FastAPI
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest


def continue_last_turn(app: "FastAPI") -> None:
    serving: Any = getattr(app.state, "anthropic_serving_messages", None)
    if serving is None:
        return
    convert = serving.to_chat_completion_request

    def converted(asked: Any, **options: Any) -> "ChatCompletionRequest":
        request: ChatCompletionRequest = convert(asked, **options)
        last: Any = request.messages[-1] if request.messages else {}
        if last.get("role") == "assistant" and last.get("content") and not last.get("tool_calls"):
            request.add_generation_prompt, request.continue_final_message = False, True
        return request

    serving.to_chat_completion_request = converted


PATCH = Patch(
    name="prefill",
    changes="`AnthropicServingMessages.to_chat_completion_request` has a last turn of the assistant's continued.",
    why="vLLM closes that turn and answers anew, so that a client gets a second beginning where it expects a rest.",
    without="A prefilled answer is answered anew.",
    gain="Not a matter of speed.",
    goes_when="vLLM sets `continue_final_message` for such requests.",
    targets={"vllm.entrypoints.anthropic.serving:AnthropicServingMessages.to_chat_completion_request": "a9413bf3ec75"},
    on_app=continue_last_turn,
)
