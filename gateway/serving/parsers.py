"""Which of vLLM's parsers read the tool calls and the thinking of a model, guessed from its family.

Asked for by the value `auto` of `tool_call_parser` or `reasoning_parser`. A family is the `model_type` of config.json
together with something that the chat template writes: a checkpoint that was trained with another template, or to answer
without thinking, is of no family here, and goes without a parser.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepserve.settings import EngineSettings

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Family:
    """`calls` and `thinks`: what the template has to have in it for a parser to be taken."""

    model_types: frozenset[str]
    calls: str
    tool_call_parser: str
    thinks: str | None = None
    reasoning_parser: str | None = None


def _types(*names: str) -> frozenset[str]:
    return frozenset(names)


_QWEN3 = _types("qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")

# The first that fits is taken.
FAMILIES = (
    Family(_QWEN3, "<function=", "qwen3_coder", "<think>", "qwen3"),
    Family(_QWEN3, "<tool_call>", "hermes", "<think>", "qwen3"),
    Family(_types("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl"), "<tool_call>", "hermes"),
    Family(_types("llama4"), "<|python_start|>", "llama4_pythonic"),
    Family(_types("llama"), "<|python_tag|>", "llama3_json"),
    Family(_types("llama"), "<tool_call>", "hermes"),
    Family(_types("mistral", "mistral3", "mixtral"), "[TOOL_CALLS]", "mistral", "[THINK]", "mistral"),
    Family(_types("deepseek_v3"), "tool▁calls▁begin", "deepseek_v3", "<think>", "deepseek_r1"),
    Family(_types("glm4_moe"), "<arg_key>", "glm45", "<think>", "glm45"),
    Family(_types("kimi_k2"), "tool_calls_section_begin", "kimi_k2", "<think>", "kimi_k2"),
    Family(_types("gpt_oss"), "<|channel|>", "openai", "<|channel|>", "openai_gptoss"),
    Family(_types("granite", "granitemoe"), "<|tool_call|>", "granite", "thinking", "granite"),
    Family(_types("phi3", "phi4mm"), "functools", "phi4_mini_json"),
    Family(_types("minimax_m2"), "minimax:tool_call", "minimax_m2", "<think>", "minimax_m2"),
    Family(_types("seed_oss"), "<seed:tool_call>", "seed_oss", "<seed:think>", "seed_oss"),
)


def with_parsers(settings: EngineSettings, folder: Path, template: str | None) -> EngineSettings:
    """With the parsers of the model in `folder` in the place of `auto`; `template`: in the place of its own. Blocks."""
    if AUTO not in (settings.tool_call_parser, settings.reasoning_parser):
        return settings
    config, own = read(folder)
    return settings.model_copy(update=guessed(settings, config, template or own))


def guessed(settings: EngineSettings, config: dict[str, Any], template: str) -> dict[str, str | None]:
    """Both settings, without `auto`."""
    family = _family(str(config.get("model_type", "")), template)
    thinks = family is not None and family.thinks is not None and family.thinks in template
    guess = {
        "tool_call_parser": family.tool_call_parser if family is not None else None,
        "reasoning_parser": family.reasoning_parser if family is not None and thinks else None,
    }
    given = {"tool_call_parser": settings.tool_call_parser, "reasoning_parser": settings.reasoning_parser}
    return {name: guess[name] if value == AUTO else value for name, value in given.items()}


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """The checkpoint's config and chat template, empty where they cannot be read. Blocks."""
    config, tokenizer = _json(folder / "config.json"), _json(folder / "tokenizer_config.json")
    try:
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        template = tokenizer.get("chat_template", "")
    return config, template if isinstance(template, str) else ""


def _family(model_type: str, template: str) -> Family | None:
    return next((each for each in FAMILIES if model_type in each.model_types and each.calls in template), None)


def _json(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
