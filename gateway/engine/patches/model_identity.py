"""What vLLM's front end calls its model: set when an engine starts, and again by a switch in place."""

from typing import Any

from gateway.engine.patches.lasting_metrics import relabel
from gateway.engine.patches.patch import Patch
from stepserve.contract import ACTIVE_ALIAS, ModelRef


def rename(client: Any, state: Any, model: ModelRef) -> None:
    """Has a running front end, whose app has this state, answer as another model."""
    from vllm.entrypoints.openai.models.protocol import BaseModelPath

    names = state.openai_serving_models.base_model_paths
    names[:] = [BaseModelPath(name=name, model_path=model.path) for name in (model.id, ACTIVE_ALIAS)]
    set_fingerprint(state, model)
    client.vllm_config.model_config.served_model_name = model.id
    relabel(client)


def set_fingerprint(state: Any, model: ModelRef) -> None:
    for name in ("openai_serving_chat", "openai_serving_completion", "openai_serving_chat_batch"):
        serving = getattr(state, name, None)
        if serving is not None:
            serving.system_fingerprint = fingerprint_of(model)


def fingerprint_of(model: ModelRef) -> str:
    """What OpenAI bodies carry as `system_fingerprint`: the start of the checkpoint's digest."""
    return f"sy_{model.digest.removeprefix('sha256:')[:16]}"


PATCH = Patch(
    name="model_identity",
    changes="`system_fingerprint` is the checkpoint's digest; a switch in place renames model, fingerprint and series.",
    why="vLLM fixes a model's name when its server starts, and does not know a checkpoint's digest.",
    without="After a switch in place answers would carry the previous model's name.",
    gain="Not a matter of speed.",
    goes_when="vLLM can rename the model of a running server.",
    required=True,
    targets={
        "vllm.entrypoints.openai.models.serving:OpenAIServingModels": "5f4447c2e03b",
        "vllm.entrypoints.serve.utils.fingerprint:get_system_fingerprint": "1a3588995869",
        "vllm.entrypoints.openai.models.protocol:BaseModelPath": "4806e76dd190",
    },
)
