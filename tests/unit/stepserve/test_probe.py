"""What a trainer may send as its probe."""

from typing import Any

import pytest
from pydantic import ValidationError

from stepserve.contract import Encoding
from stepserve.probe import Probe
from stepserve.readable import readable

IDS = [[1, 2, 3], [4, 5]]
LOGPROBS = [[-1.0, -2.0], [-0.5]]
BOTH = {"prompt_token_ids": IDS, "logprobs": LOGPROBS}


def refusal(**body: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Probe.model_validate(body)
    return readable(caught.value.errors())


def test_token_ids() -> None:
    reference = Probe(prompt_token_ids=IDS, logprobs=LOGPROBS).reference()
    assert (reference.kind, reference.prompt_token_ids, reference.logprobs) == ("reference", IDS, LOGPROBS)
    assert reference.prompts is None


def test_the_first_token_may_have_a_null() -> None:
    reference = Probe(prompt_token_ids=IDS, logprobs=[[None, -1.0, -2.0], [-0.5]]).reference()
    assert reference.logprobs == LOGPROBS


def test_text() -> None:
    reference = Probe(prompts=["a b", "c"], logprobs=LOGPROBS).reference()
    assert (reference.prompts, reference.prompt_token_ids) == (["a b", "c"], None)


def test_what_a_tokenizer_must_make_of_texts() -> None:
    messages = [{"role": "user", "content": "hi"}]
    encodings = [{"text": "a", "token_ids": [1]}, {"messages": messages, "token_ids": [2, 3]}]
    reference = Probe(prompt_token_ids=IDS, logprobs=LOGPROBS, encodings=encodings).reference()
    assert reference.encodings == [
        Encoding(text="a", token_ids=[1]),
        Encoding(messages=messages, token_ids=[2, 3]),
    ]
    assert Probe(prompt_token_ids=IDS, logprobs=LOGPROBS).reference().encodings is None


def test_what_rounding_does_to_the_trainers_model() -> None:
    assert Probe(prompt_token_ids=IDS, logprobs=LOGPROBS, noise=0.03).reference().noise == 0.03


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"logprobs": LOGPROBS}, "either prompts or prompt_token_ids"),
        ({"prompts": ["a", "b"], "prompt_token_ids": IDS, "logprobs": LOGPROBS}, "either prompts or"),
        ({"prompt_token_ids": IDS}, "logprobs: is missing"),
        ({"prompt_token_ids": IDS, "logprobs": LOGPROBS[:1]}, "logprobs has 1 rows for 2 prompts"),
        ({"prompt_token_ids": IDS, "logprobs": [[-1.0], [-0.5]]}, "logprobs.0: 1 numbers for the 3 tokens"),
        ({"prompt_token_ids": IDS, "logprobs": [[-1.0, None], [-0.5]]}, "logprobs.0: only the first"),
        ({"prompt_token_ids": IDS, "logprobs": [[-1.0, -2.0], [None]]}, "logprobs.1: there is no number"),
        ({"prompt_token_ids": IDS, "logprobs": [[-1.0, 0.1], [-0.5]]}, "logprobs.0.1: "),
        ({"prompt_token_ids": IDS, "logprobs": [[-1.0, float("-inf")], [-0.5]]}, "logprobs.0.1: "),
        ({"prompt_token_ids": IDS, "logprobs": [[-1.0, float("nan")], [-0.5]]}, "logprobs.0.1: "),
        ({"prompt_token_ids": IDS, "logprobs": [["-1", -2.0], [-0.5]]}, "logprobs.0.0: "),
        ({"prompt_token_ids": [[1], [2, 3]], "logprobs": LOGPROBS}, "prompt_token_ids.0: "),
        ({"prompt_token_ids": [[-1, 2, 3], [4, 5]], "logprobs": LOGPROBS}, "prompt_token_ids.0.0: "),
        ({"prompt_token_ids": [[1] * 513], "logprobs": [[-1.0] * 512]}, "prompt_token_ids.0: "),
        ({"prompt_token_ids": [[1, 2]] * 33, "logprobs": [[-1.0]] * 33}, "prompt_token_ids: "),
        ({"prompt_token_ids": [], "logprobs": []}, "prompt_token_ids: "),
        ({"prompts": ["", "b"], "logprobs": LOGPROBS}, "prompts.0: "),
        ({**BOTH, "encodings": [{"token_ids": [1]}]}, "encodings.0: give either text or messages"),
        ({**BOTH, "noise": 0.6}, "noise: "),
        ({**BOTH, "noise": float("nan")}, "noise: "),
        ({**BOTH, "encodings": [{"text": "a", "token_ids": []}]}, "encodings.0.token_ids: "),
        (
            {**BOTH, "encodings": [{"messages": [{"role": "user"}], "token_ids": [1]}]},
            "encodings.0.messages.0.content: ",
        ),
        ({"prompts": ["a", "b"], "logprobs": LOGPROBS, "seed": 1}, "seed: unknown field"),
    ],
)
def test_what_is_refused(body: dict[str, Any], named: str) -> None:
    assert named in refusal(**body)
