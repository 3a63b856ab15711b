"""Engine arguments, checked by vLLM's own parser and types; no engine is started."""

import argparse
import shutil
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import EngineArgumentRefused
from stepserve.contract import EngineOverrides, ModelRef
from stepserve.engine_arguments import OWNED, PER_MODEL, ranks_of
from stepserve.settings import EngineSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of itself while vLLM imports it
    from vllm.engine.arg_utils import AsyncEngineArgs

    from gateway.engine.arguments import check, check_ranks, devices, flags_of, parser
    from gateway.engine.config import serve_flags

# vLLM imports a model's code, and with it more of torch, when a model is looked at.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CHECKPOINT = Path(__file__).resolve().parents[4] / "demo" / "checkpoints" / "step-1500"
MODEL = ModelRef(id="m", path=str(CHECKPOINT), digest="sha256:aa")


def refusal_of(args: dict[str, Any], folder: Path | None = None, **settings: Any) -> str:
    with pytest.raises(EngineArgumentRefused) as refused:
        check(EngineSettings(args=args, **settings), folder)
    return str(refused.value)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            {"tensor_paralel_size": 2},
            "engine.args.tensor_paralel_size: vLLM has no such engine argument (did you mean tensor_parallel_size?)",
        ),
        ({"tensor_parallel_size": "two"}, "engine.args.tensor_parallel_size: invalid int value: 'two'"),
        (
            {"tensor_parallel_size": 0},
            "engine.args.tensor_parallel_size: Input should be greater than or equal to 1, not 0",
        ),
        ({"tensor_parallel_size": [1]}, "engine.args.tensor_parallel_size: takes one value, not a list"),
        ({"tensor_parallel_size": True}, "engine.args.tensor_parallel_size: takes a value, not true"),
        ({"enable_prefix_caching": "yes"}, "engine.args.enable_prefix_caching: must be true or false, not 'yes'"),
        ({"cpu_offload_gb": -3}, "engine.args.cpu_offload_gb: Input should be greater than or equal to 0, not -3.0"),
    ],
)
def test_a_wrong_argument_is_refused_in_a_sentence(args: dict[str, Any], sentence: str) -> None:
    assert refusal_of(args) == sentence


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"kv_cache_dtype": "fp9"}, "engine.args.kv_cache_dtype: invalid choice: 'fp9'"),
        ({"compilation_config": {"modee": 1}}, "engine.args.compilation_config: 1 validation error"),
        ({"cpu_offload_params": ["a", "--trust-remote-code"]}, "do not begin with '-'"),
    ],
)
def test_what_vllm_says_of_a_value_is_passed_on(args: dict[str, Any], words: str) -> None:
    said = refusal_of(args)
    assert words in said
    assert "\n" not in said
    assert "errors.pydantic.dev" not in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"quantization": "nonsense"}, "Unknown quantization method: nonsense"),
        ({"max_logprobs": -5}, "max_logprobs: Input should be greater than or equal to -1"),
    ],
)
def test_what_does_not_suit_the_model_is_refused_before_anything_is_loaded(args: dict[str, Any], words: str) -> None:
    said = refusal_of(args, CHECKPOINT)
    assert said.startswith("engine.args")
    assert words in said


def test_ranks_that_do_not_divide_the_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    said = refusal_of({"tensor_parallel_size": 3}, CHECKPOINT)
    assert said == ("engine.args: Total number of attention heads (4) must be divisible by tensor parallel size (3).")


def test_more_ranks_than_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    said = refusal_of({"tensor_parallel_size": 2, "pipeline_parallel_size": 2})
    assert said == (
        "engine.args: tensor_parallel_size 2 x pipeline_parallel_size 2 needs 4 cores, and this machine has 2"
    )
    assert devices() == 2
    assert ranks_of({"tensor_parallel_size": "2"}) == 2
    check_ranks({"tensor_parallel_size": 2})


def test_ranks_over_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each machine has as many, and no more than it has devices."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    check(EngineSettings(args={"tensor_parallel_size": 4, "nnodes": 2}))
    said = refusal_of({"tensor_parallel_size": 8, "nnodes": 2})
    assert said == "engine.args: tensor_parallel_size 8 over 2 nodes needs 4 cores on each, and this machine has 2"
    said = refusal_of({"tensor_parallel_size": 4, "nnodes": 3})
    assert said.startswith("engine.args.nnodes: 4 ranks")
    assert said.endswith("cannot be shared out evenly among 3 nodes")


def test_parsers_by_name() -> None:
    assert refusal_of({}, tool_call_parser="hermess").startswith(
        "engine.tool_call_parser: vLLM has no parser 'hermess' (did you mean hermes?)"
    )
    assert "engine.reasoning_parser: vLLM has no parser" in refusal_of({}, reasoning_parser="none of them")
    check(EngineSettings(tool_call_parser="hermes", reasoning_parser="qwen3"))


def test_arguments_reach_the_parsed_flags_of_an_engine() -> None:
    settings = EngineSettings(args={"enable_prefix_caching": False, "block_size": 64}).with_overrides(
        EngineOverrides(args={"limit_mm_per_prompt": {"image": 2}, "cpu_offload_params": ["a", "b"]})
    )
    check(settings, CHECKPOINT)
    args = parser().parse_args(serve_flags(MODEL, settings))
    assert (args.enable_prefix_caching, args.block_size) == (False, 64)
    assert args.limit_mm_per_prompt == {"image": 2}
    assert set(args.cpu_offload_params) == {"a", "b"}


def test_without_arguments_no_parser_is_made_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argparse.ArgumentParser, "__init__", _must_not_be_called)
    assert flags_of({}) == []


def _must_not_be_called(*_: Any, **__: Any) -> None:
    raise AssertionError


def test_every_argument_that_is_named_here_is_one_of_vllms() -> None:
    """An argument that vLLM has renamed would be open under its new name, or missing under the old one."""
    known = {field.name for field in fields(AsyncEngineArgs)}
    assert not PER_MODEL - known
    own_parser = {action.dest for action in parser()._actions}
    assert not OWNED.keys() - known - own_parser - {"tool_call_parser"}


def test_a_checkpoint_without_config_is_refused_in_a_sentence(tmp_path: Path) -> None:
    shutil.copy(CHECKPOINT / "tokenizer.json", tmp_path)
    assert refusal_of({"block_size": 64}, tmp_path).startswith("engine.args: ")
