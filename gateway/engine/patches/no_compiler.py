"""Engines on the CPU whose model is not compiled compile nothing else either."""

from typing import TYPE_CHECKING, Any

from gateway.engine.patches.patch import Patch

if TYPE_CHECKING:
    import torch


def compile_nothing() -> None:
    """For this process, which is a worker's. With a GPU it stays as vLLM has it."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.config import CompilationMode
    from vllm.v1.sample import sampler
    from vllm.v1.worker.cpu_worker import CPUWorker

    load = CPUWorker.load_model

    def load_model(worker: Any, *args: Any, **options: Any) -> Any:
        if worker.vllm_config.compilation_config.mode == CompilationMode.NONE:
            import torch

            torch.compiler.set_stance("force_eager")
            sampler.batched_count_greater_than = at_least
        return load(worker, *args, **options)

    CPUWorker.load_model = load_model


def at_least(x: "torch.Tensor", values: "torch.Tensor") -> "torch.Tensor":
    """How many of each row of `x`, [rows, n], are at least as large as the row's value in `values`, [rows, 1].

    NumPy counts what is true in an eighth of the time that the row's log-probabilities took; PyTorch, which makes each
    an integer of 8 bytes, in twice that time.
    """
    import numpy as np
    import torch

    rows = x.float() if x.dtype is torch.bfloat16 else x  # which NumPy does not have
    pairs = zip(rows.numpy(), values.to(rows.dtype).numpy(), strict=True)
    return torch.tensor([np.count_nonzero(row >= value) for row, value in pairs], dtype=torch.int64)


PATCH = Patch(
    name="no_compiler",
    changes="Where the model is not compiled, `torch.compile` of single functions is passed over too, and NumPy counts"
    " the ranks of tokens.",
    why="vLLM compiles a few functions whatever its settings say. Each process of an engine does so while requests"
    " wait.",
    without="The first request for log-probabilities, which is the proof's, waits for the C++ compiler; it fails where"
    " there is none.",
    gain="The first ranks of a process in 1.9 ms of a processor instead of 6.8 s with all in the compiler's cache, and"
    " 64 of 151,936 tokens as quickly as by its code (`python -m benchmarks.patches`, on a slow machine).",
    goes_when="vLLM compiles nothing with `enforce_eager`.",
    targets={
        "vllm.v1.sample.ops.logprobs:batched_count_greater_than": "85869de0f00b",
        "vllm.v1.worker.gpu_worker:Worker.load_model": "350a4fb01458",
    },
    in_worker=compile_nothing,
)
