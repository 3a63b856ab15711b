"""Parsers by a model's family, and only where they are asked for."""

import json
import warnings
from pathlib import Path

import pytest

from gateway.serving.parsers import FAMILIES, guessed, with_parsers
from stepserve.settings import EngineSettings

AUTO = EngineSettings(tool_call_parser="auto", reasoning_parser="auto")
DEMO = Path(__file__).resolve().parents[4] / "demo" / "checkpoints" / "step-1500"


@pytest.mark.parametrize(
    ("model_type", "template", "tools", "thinking"),
    [
        ("qwen3", "<tool_call> {{ }} <think>", "hermes", "qwen3"),
        ("qwen3", "<tool_call> {{ }}", "hermes", None),
        ("qwen3_moe", "<tool_call><function=", "qwen3_coder", None),
        ("llama", "<|python_tag|>", "llama3_json", None),
        ("mistral", "[TOOL_CALLS]", "mistral", None),
        ("gpt_oss", "<|channel|>analysis", "openai", "openai_gptoss"),
        ("qwen3", "<|im_start|>", None, None),
        ("of_next_year", "<tool_call>", None, None),
    ],
)
def test_a_family(model_type: str, template: str, tools: str | None, thinking: str | None) -> None:
    found = guessed(AUTO, {"model_type": model_type}, template)
    assert (found["tool_call_parser"], found["reasoning_parser"]) == (tools, thinking)


def test_what_is_named_is_kept() -> None:
    settings = EngineSettings(tool_call_parser="xlam", reasoning_parser="auto")
    found = guessed(settings, {"model_type": "qwen3"}, "<tool_call><think>")
    assert found == {"tool_call_parser": "xlam", "reasoning_parser": "qwen3"}
    assert guessed(EngineSettings(), {"model_type": "qwen3"}, "<tool_call>") == {
        "tool_call_parser": None,
        "reasoning_parser": None,
    }


def test_of_a_checkpoint_with_its_own_template_or_another(tmp_path: Path) -> None:
    assert with_parsers(AUTO, DEMO, None).tool_call_parser is None, "ChatML without tools"
    assert with_parsers(AUTO, DEMO, "<tool_call>").tool_call_parser == "hermes"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "<tool_call>"}))
    assert with_parsers(AUTO, tmp_path, None).tool_call_parser == "hermes"
    plain = EngineSettings()
    assert with_parsers(plain, tmp_path, None) is plain


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_vllm_has_every_parser_of_the_table() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of itself while vLLM imports it
        from vllm.reasoning import ReasoningParserManager  # noqa: PLC0415 - seconds
        from vllm.tool_parsers import ToolParserManager  # noqa: PLC0415 - likewise

    assert {family.tool_call_parser for family in FAMILIES} <= set(ToolParserManager.list_registered())
    thinking = {family.reasoning_parser for family in FAMILIES if family.reasoning_parser}
    assert thinking <= set(ReasoningParserManager.list_registered())
