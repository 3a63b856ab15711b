"""Runs inside vLLM's worker (`worker_extension_cls`): puts another checkpoint's tensors into the live parameters."""

import time
from typing import Any

from gateway.engine_generator import make_generators_rewindable
from gateway.engine_guard import is_patched
from gateway.engine_logprobs import give_each_its_own
from gateway.engine_norms import register_norms

if is_patched("rewindable_generators"):
    make_generators_rewindable()
if is_patched("own_logprobs"):
    give_each_its_own()
register_norms()  # this module is imported in the worker's process alone


class SwitchyardWorker:
    """Mixed into vLLM's worker class, so `self` is the worker. Called by `collective_rpc`."""

    def switchyard_reload(self, path: str) -> float:
        """Loads the tensors of the checkpoint at `path` into the running model; returns the seconds it took.

        Names, shapes and types were compared before. Raises what vLLM raises when a file turns out otherwise: the
        parameters are then a mixture, and the caller loads the previous checkpoint again.
        """
        started = time.perf_counter()
        worker: Any = self
        worker.reload_weights(weights_path=path)
        repack_tied_head(worker.model_runner.model)
        return time.perf_counter() - started


def repack_tied_head(model: Any) -> None:
    """On the CPU, packs a tied lm_head again.

    It is another module than the embedding and shares its storage, so a reload fills it but does not process it, and
    its packed copy, which the CPU kernel multiplies with, would stay the old checkpoint's: wrong output, and nothing
    that says so.
    """
    head = getattr(model, "lm_head", None)
    if head is None or not hasattr(head, "cpu_linear"):
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm  # noqa: PLC0415 - in the worker alone

    dispatch_cpu_unquantized_gemm(head, remove_weight=False)
