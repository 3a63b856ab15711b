"""Engine arguments, as far as they can be judged without vLLM: in settings, at registration, on a command line."""

from typing import Any

import pytest
from pydantic import ValidationError

from stepserve.contract import EngineOverrides
from stepserve.engine_arguments import OWNED, PER_MODEL, parse, ranks_of
from stepserve.setting_origins import load
from stepserve.setting_sources import SettingsRefused
from stepserve.settings import EngineSettings


def test_settings_take_arguments_from_a_variable_and_from_single_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_ENGINE__ARGS", '{"tensor-parallel-size": 2, "kv_cache_dtype": "fp8"}')
    assert load().engine.args == {"tensor_parallel_size": 2, "kv_cache_dtype": "fp8"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ('{"model": "/somewhere"}', "model cannot be given: Stepserve names what it loads"),
        ('{"scheduling_policy": "fcfs"}', "scheduling_policy cannot be given"),
        ('{"worker_extension_cls": "a.B"}', "worker_extension_cls cannot be given"),
        ('{"node_rank": 1}', "node_rank cannot be given: Stepserve's own nodes agree on it"),
        ('{"port": 1}', "port cannot be given: the gateway answers HTTP"),
        ('{"max_num_seqs": 1}', "max_num_seqs cannot be given: it is the setting engine.max_num_seqs"),
        ('{"kv_cache_dtype": null}', "kv_cache_dtype is null"),
    ],
)
def test_settings_refuse_by_name_what_stepserve_sets_itself(
    args: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERENCE_ENGINE__ARGS", args)
    with pytest.raises(SettingsRefused, match="INFERENCE_ENGINE__ARGS") as refused:
        load()
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "args",
    [
        {"reasoning_parser_plugin": "/tmp/x.py"},
        {"scheduler_cls": "os.system"},
        {"logits_processors": ["os:system"]},
        {"compilation_config": {"backend": "os.system"}},
        {"speculative_config": {"model": "/etc", "num_speculative_tokens": 2}},
        {"load_format": "pt"},
        {"an_argument_of_next_year": 1},
        {"allowed_local_media_path": "/"},
    ],
)
def test_a_registration_can_name_neither_files_nor_code(args: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="cannot be given"):
        EngineOverrides(args=args)


def test_a_models_arguments_stand_before_those_of_the_settings() -> None:
    settings = EngineSettings(args={"block_size": 64, "kv_cache_dtype": "fp8"}, max_model_len=512)
    own = EngineOverrides(args={"block_size": 32, "tensor_parallel_size": 2}, max_num_seqs=8)
    started = settings.with_overrides(own)
    assert started.args == {"block_size": 32, "kv_cache_dtype": "fp8", "tensor_parallel_size": 2}
    assert (started.max_model_len, started.max_num_seqs) == (512, 8)
    assert settings.with_overrides(None) is settings


def test_the_same_arguments_in_another_order_are_the_same_engine() -> None:
    one = EngineOverrides(args={"block_size": 32, "max_logprobs": 5})
    other = EngineOverrides(args={"max-logprobs": 5, "block-size": 32})
    assert one == other
    assert one.model_dump_json() == other.model_dump_json()


def test_what_is_written_down_is_what_was_given() -> None:
    assert EngineOverrides(max_num_seqs=4).written() == {"max_num_seqs": 4}
    assert EngineOverrides(args={"block_size": 32}).written() == {"args": {"block_size": 32}}
    assert EngineOverrides().written() == {}


def test_key_and_value_of_a_command_line() -> None:
    assert parse("tensor-parallel-size=2") == ("tensor_parallel_size", 2)
    assert parse("kv_cache_dtype=fp8") == ("kv_cache_dtype", "fp8")
    assert parse('limit_mm_per_prompt={"image": 2}') == ("limit_mm_per_prompt", {"image": 2})
    for wrong in ("tensor_parallel_size", "=2", "a="):
        with pytest.raises(ValueError, match="key=value"):
            parse(wrong)


def test_no_argument_is_both_owned_and_a_models() -> None:
    assert not PER_MODEL & OWNED.keys()


def test_ranks_over_nodes_are_counted_for_each_machine() -> None:
    assert ranks_of({"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "nnodes": 2}) == 4
    assert ranks_of({"tensor_parallel_size": "2", "nnodes": "2"}) == 1
    assert ranks_of({"nnodes": "two"}) == 1
