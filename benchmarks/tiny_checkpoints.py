"""Tiny random checkpoints of many architectures, with the demo model's tokenizer.

Random weights of the usual size say almost the same of every token; these are drawn wider, so that each seed makes a
model of its own.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.processes import CHECKPOINT

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_VOCABULARY = 259
_DEVIATION = 0.12


@dataclass(frozen=True, slots=True)
class Kind:
    """`config` names a class of transformers and `fields` what it is given in addition to the common ones."""

    config: str
    fields: dict[str, Any] = field(default_factory=dict)
    dtype: str = "bfloat16"
    common: bool = True


_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
_LLAMA_ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
_GPT = {"n_embd": 128, "n_layer": 3, "n_head": 4, "n_positions": 512, "vocab_size": _VOCABULARY}

KINDS: dict[str, Kind] = {
    "llama": Kind("LlamaConfig"),
    "llama tied": Kind("LlamaConfig", {"tie_word_embeddings": True}),
    "llama rope llama3": Kind("LlamaConfig", {"rope_parameters": _LLAMA_ROPE}),
    "llama float16": Kind("LlamaConfig", dtype="float16"),
    "llama float32": Kind("LlamaConfig", dtype="float32"),
    "llama bias": Kind("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "mistral sliding": Kind("MistralConfig", {"sliding_window": 16}),
    "qwen2": Kind("Qwen2Config"),
    "qwen2 tied": Kind("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": Kind("Qwen3Config", {"head_dim": 32}),
    "qwen3 tied": Kind("Qwen3Config", {"head_dim": 32, "tie_word_embeddings": True}),
    "phi": Kind("PhiConfig"),
    "phi3": Kind("Phi3Config", {"pad_token_id": 256}),
    "gemma": Kind("GemmaConfig", {"head_dim": 32, "tie_word_embeddings": True}),
    "gemma2": Kind("Gemma2Config", {"head_dim": 32, "sliding_window": 32, "tie_word_embeddings": True}),
    "gemma3": Kind("Gemma3TextConfig", {"head_dim": 32, "sliding_window": 32, "tie_word_embeddings": True}),
    "gpt2": Kind("GPT2Config", _GPT, common=False),
    "gpt neox": Kind("GPTNeoXConfig", {"num_key_value_heads": 4}),  # no field of its own, but vLLM reads it
    "opt": Kind("OPTConfig", {"ffn_dim": 256, "word_embed_proj_dim": 128, "tie_word_embeddings": True}),
    "bloom": Kind("BloomConfig", {"n_layer": 3, "n_head": 4, "tie_word_embeddings": True}),
    "stablelm": Kind("StableLmConfig"),
    "olmo2": Kind("Olmo2Config"),
    "granite": Kind("GraniteConfig"),
    "smollm3": Kind("SmolLM3Config", {"pad_token_id": 256}),
    "mixtral": Kind("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmoe": Kind("OlmoeConfig", {"num_experts": 4, "num_experts_per_tok": 2}),
    "qwen2 moe": Kind("Qwen2MoeConfig", {"num_experts": 4, "shared_expert_intermediate_size": 64, **_EXPERTS}),
    "qwen3 moe": Kind("Qwen3MoeConfig", {"num_experts": 4, "head_dim": 32, "norm_topk_prob": True, **_EXPERTS}),
    "mamba2": Kind(
        "Mamba2Config",
        {"num_heads": 8, "head_dim": 32, "n_groups": 1, "state_size": 32, "expand": 2, "chunk_size": 32,
         "hidden_size": 128, "num_hidden_layers": 3, "vocab_size": _VOCABULARY},
        common=False,
    ),
    "falcon h1": Kind(
        "FalconH1Config",
        {"mamba_d_ssm": 128, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_d_state": 32,
         "mamba_chunk_size": 32, "head_dim": 32},
    ),
}  # fmt: skip


def build(kind: str, seed: int, folder: Path) -> Path:
    """Makes the checkpoint of that kind and seed in `folder`, unless it is there. Returns the folder."""
    if (folder / "config.json").exists():
        return folder
    wanted = KINDS[kind]
    torch.manual_seed(seed)
    common = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "vocab_size": _VOCABULARY,
        "tie_word_embeddings": False,
    }
    ids = {"bos_token_id": 257, "eos_token_id": 258, "pad_token_id": 256, "initializer_range": _DEVIATION}
    make: Callable[..., Any] = getattr(transformers, wanted.config)
    config = make(**({**common, **ids} if wanted.common else ids) | wanted.fields)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, wanted.dtype))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and ("norm" in name or "bias" in name or "ln_" in name):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    for name in _TOKENIZER_FILES:
        shutil.copy(CHECKPOINT / name, folder / name)
    return folder
