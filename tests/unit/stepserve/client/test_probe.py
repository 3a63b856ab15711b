"""A trainer's probe, of a tiny model in memory."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stepserve.client.probe import PROMPTS, probe_of

VOCABULARY = 50


class Model:
    """Finds the next token by the last one alone."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(VOCABULARY, 16).to(dtype)
        self.head = torch.nn.Linear(16, VOCABULARY).to(dtype)
        self.dtype, self.device, self.training = dtype, torch.device("cpu"), True

    def train(self, mode: bool) -> None:
        self.training = mode

    def eval(self) -> None:
        self.training = False

    def __call__(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.embedding(input_ids)))


class Tokenizer:
    def __init__(self, chat_template: str | None) -> None:
        self.chat_template = chat_template

    def __call__(self, text: str, *, add_special_tokens: bool = True, return_tensors: str = "") -> dict[str, Any]:
        token_ids = [1] * add_special_tokens + [ord(letter) % VOCABULARY for letter in text]
        return {"input_ids": torch.tensor([token_ids]) if return_tensors else token_ids}

    def apply_chat_template(self, messages: list[dict[str, str]], **_options: object) -> str:
        return f"<{messages[0]['content']}>"


def test_a_model_in_float32_says_what_bfloat16_does_to_it() -> None:
    model = Model(torch.float32)
    probe = probe_of(model, Tokenizer("t"))
    assert probe is not None
    assert 0 < probe["noise"] < 0.1
    assert model.training
    for token_ids, row in zip(probe["prompt_token_ids"], probe["logprobs"], strict=True):
        assert len(row) == len(token_ids) - 1
        assert all(math.isfinite(value) and value <= 0 for value in row)


def test_a_model_in_bfloat16_cannot_say_that() -> None:
    probe = probe_of(Model(torch.bfloat16), Tokenizer("t"))
    assert probe is not None
    assert "noise" not in probe


def test_a_model_that_is_always_under_autocast_cannot_either() -> None:
    """As a trainer of mixed precision has it: its forward pass is wrapped."""

    class Wrapped(Model):
        def __call__(self, input_ids: torch.Tensor) -> SimpleNamespace:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().__call__(input_ids)

    probe = probe_of(Wrapped(torch.float32), Tokenizer("t"))
    assert probe is not None
    assert "noise" not in probe


@pytest.mark.parametrize("template", [None, "{{ strftime_now('%d %b') }}"])
def test_a_chat_template_that_is_not_there_or_tells_the_time_is_left_out(template: str | None) -> None:
    probe = probe_of(Model(torch.float32), Tokenizer(template))
    assert probe is not None
    assert [encoding.get("text") for encoding in probe["encodings"]] == list(PROMPTS)


def test_a_chat_template_is_probed_by_a_question() -> None:
    probe = probe_of(Model(torch.float32), Tokenizer("t"))
    assert probe is not None
    asked = probe["encodings"][-1]
    assert asked["messages"][0]["role"] == "user"
    assert asked["token_ids"][0] == ord("<") % VOCABULARY
