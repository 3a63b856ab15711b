"""Random generators of seeded requests on the CPU, which vLLM must be able to turn back (gateway.engine.generator)."""

from gateway.engine.patches.patch import Patch


def make_generators_rewindable() -> None:
    """For this process, which is a worker's: its runner makes generators by `torch.Generator`. Not with a GPU."""
    import torch
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from gateway.engine.generator import RewindableGenerator

    torch.Generator = RewindableGenerator


PATCH = Patch(
    name="rewindable_generators",
    changes="`torch.Generator` of the worker's process has `get_offset` and `set_offset` on the CPU.",
    why="When a prompt is read in parts, vLLM samples a token after each part, throws it away, and turns the request's"
    " generator back by `set_offset`, which raises on the CPU.",
    without="One request with a seed and a long prompt ends the engine, and with it every other request.",
    gain="Not a matter of speed.",
    goes_when="vLLM's CPU runner does without `set_offset`, or torch's CPU generators have it.",
    required=True,
    targets={"vllm.v1.worker.gpu_model_runner:GPUModelRunner._bookkeeping_sync": "13c3e81003a7"},
    in_worker=make_generators_rewindable,
)
