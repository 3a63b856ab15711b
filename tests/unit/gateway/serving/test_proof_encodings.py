"""A reference that says how texts are encoded finds an engine with another tokenizer or chat template."""

from gateway.serving.proof_encodings import encoded_otherwise
from stepserve.contract import Encoding

MESSAGES = [{"role": "user", "content": "hi"}]


class Letters:
    """A token a letter, and 0 before each text."""

    def __init__(self, chat_template: str | None = "<{}>") -> None:
        self.chat_template = chat_template

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [0] * add_special_tokens + [ord(letter) for letter in text]

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert add_generation_prompt
        assert not tokenize
        return str(self.chat_template).format(conversation[0]["content"])


def test_the_same_tokenizer_and_template_are_found_to_be_so() -> None:
    encodings = [
        Encoding(text="ab", token_ids=[0, 97, 98]),
        Encoding(messages=MESSAGES, token_ids=[60, 104, 105, 62]),
    ]
    assert encoded_otherwise(Letters(), encodings) is None


def test_another_token_is_named() -> None:
    reason = encoded_otherwise(Letters(), [Encoding(text="ab", token_ids=[0, 97, 99])])
    assert reason == "the tokenizer makes other tokens of 'ab' than the reference says: token 2 is 98 instead of 99"
    reason = encoded_otherwise(Letters(), [Encoding(text="ab", token_ids=[97, 98])])
    assert reason is not None
    assert reason.endswith("token 0 is 0 instead of 97")


def test_another_template_is_named_and_so_is_none() -> None:
    encodings = [Encoding(messages=MESSAGES, token_ids=[60, 104, 105, 62])]
    reason = encoded_otherwise(Letters("<{}>?"), encodings)
    assert reason is not None
    assert reason.startswith("the chat template and tokenizer make other tokens of '<hi>?'")
    assert reason.endswith("5 tokens instead of 4")
    assert encoded_otherwise(Letters(None), encodings) == (
        "there is no chat template here, and the reference was made with one"
    )
