"""Tokens are counted where the engine's client hands them over (gateway.engine.metering)."""

from typing import TYPE_CHECKING

from gateway.engine.patches.patch import Patch

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


def meter(client: "AsyncLLM") -> None:
    from gateway.engine.metering import meter_outputs

    meter_outputs(client)


PATCH = Patch(
    name="metered_outputs",
    changes="`generate` and `encode` of the client note tokens in the meter of the request that runs.",
    why="A stream says how many tokens it had only when its client asks, and a client that leaves gets no number.",
    without="Keys' quotas and usage would be estimates (decision 13).",
    gain="Not a matter of speed.",
    goes_when="vLLM reports tokens by request to whoever asked, streams and clients that leave included.",
    required=True,
    targets={
        "vllm.v1.engine.async_llm:AsyncLLM.generate": "5bd0ee90459b",
        "vllm.v1.engine.async_llm:AsyncLLM.encode": "d11895748016",
    },
    on_client=meter,
)
