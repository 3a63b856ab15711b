"""A second front end on a running engine answers with a LoRA adapter, whatever a request's `model` says."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gateway.engine.patches.patch import Patch

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


def answer_with(state: Any, lora: "LoRARequest", model_id: str) -> None:
    """For the state of a front end's app."""
    models = state.openai_serving_models
    models.lora_requests = _Every(lora)
    models.is_base_model = lambda _name: False
    models.model_name = lambda _lora=None: model_id


class _Every(Mapping[str, "LoRARequest"]):
    """The adapter under every name; lists none, so that vLLM does not look for one by the media in a message."""

    def __init__(self, lora: "LoRARequest") -> None:
        self._lora = lora

    def __getitem__(self, name: str) -> "LoRARequest":
        return self._lora

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


PATCH = Patch(
    name="adapter_front",
    changes="`lora_requests`, `is_base_model` and `model_name` of an adapter's front end lead to the adapter alone.",
    why="vLLM chooses the adapter by a request's `model`, which here may also be an alias or `active`.",
    without="Adapters could not be the active model, and a request might miss its adapter.",
    gain="Not a matter of speed.",
    goes_when="vLLM has a default adapter for a front end.",
    required=True,
    targets={
        "vllm.entrypoints.openai.models.serving:OpenAIServingModels": "5f4447c2e03b",
        "vllm.entrypoints.serve.engine.serving:BaseServing._maybe_get_adapters": "c7bc850c2f8d",
    },
)
