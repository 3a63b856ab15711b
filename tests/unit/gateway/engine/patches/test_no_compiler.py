"""Without a compiled model nothing is compiled, and ranks are those that vLLM's function counts."""

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of itself while vLLM imports it
    import torch
    from vllm.config import CompilationMode
    from vllm.v1.sample import sampler
    from vllm.v1.worker.cpu_worker import CPUWorker

    from gateway.engine.patches.no_compiler import at_least, compile_nothing


class Compiled(Exception):
    """Somebody asked for it."""


def _refuse(*_: Any) -> Any:
    raise Compiled


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(CPUWorker, "load_model", lambda _: "loaded", raising=False)
    monkeypatch.setattr(sampler, "batched_count_greater_than", sampler.batched_count_greater_than)
    compile_nothing()
    yield lambda mode: CPUWorker.load_model(
        SimpleNamespace(vllm_config=SimpleNamespace(compilation_config=SimpleNamespace(mode=mode)))
    )
    torch.compiler.set_stance("default")


def test_what_vllm_compiles_by_itself_is_called_as_it_is(load: Any) -> None:
    double = torch.compile(lambda x: 2 * x, backend=_refuse)
    assert load(CompilationMode.NONE) == "loaded"
    assert double(torch.tensor(21)).item() == 42
    assert sampler.batched_count_greater_than is at_least


def test_a_model_that_is_compiled_may_compile_the_rest(load: Any) -> None:
    double = torch.compile(lambda x: 2 * x, backend=_refuse)
    assert load(CompilationMode.VLLM_COMPILE) == "loaded"
    with pytest.raises(Exception, match="Compiled"):
        double(torch.tensor(21))
    assert sampler.batched_count_greater_than is not at_least


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_ranks_are_those_of_vllm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logprobs = torch.randn(7, 1000).log_softmax(-1).to(dtype)  # of few digits, so that there are equal ones
    logprobs[3, 5], logprobs[4, 0], logprobs[5] = float("-inf"), float("nan"), 1.0
    chosen = logprobs.gather(-1, torch.tensor([[0], [999], [3], [5], [0], [1], [7]]))
    with torch.compiler.set_stance("force_eager"):
        wanted = sampler.batched_count_greater_than(logprobs, chosen)
    assert at_least(logprobs, chosen).tolist() == wanted.tolist()
