"""A probe: what the trainer says its weights must say of a few prompts, as it comes with a registration or a push."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stepserve.contract import Encoding, Reference
from stepserve.request_model import RequestModel

METADATA_KEY = "stepserve.probe"
"""Where pushed safetensors have it, as JSON."""
MAX_PROMPTS = 32
MAX_PROMPT_TOKENS = 512
MAX_PROMPT_CHARACTERS = 8192
MAX_ENCODED_TOKENS = 8192
MAX_NOISE = 0.5  # nats: above it a proof would tell nothing apart

TokenId = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
PromptTokens = Annotated[list[TokenId], Field(min_length=2, max_length=MAX_PROMPT_TOKENS)]
PromptText = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
Logprob = Annotated[float, Field(strict=True, le=0, allow_inf_nan=False)]


class ProbedMessage(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: PromptText


class ProbedEncoding(BaseModel):
    """As contract.Encoding."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: PromptText | None = None
    messages: Annotated[list[ProbedMessage], Field(min_length=1, max_length=MAX_PROMPTS)] | None = None
    token_ids: Annotated[list[TokenId], Field(min_length=1, max_length=MAX_ENCODED_TOKENS)]

    @model_validator(mode="after")
    def _is_of_one_thing(self) -> Self:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either text or messages")
        return self

    def encoding(self) -> Encoding:
        messages = None if self.messages is None else [message.model_dump() for message in self.messages]
        return Encoding(text=self.text, messages=messages, token_ids=self.token_ids)


class Probe(RequestModel):
    """As contract.Reference, one row of `logprobs` a prompt; a row may begin with null for its first token."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: Annotated[list[PromptText], Field(min_length=1, max_length=MAX_PROMPTS)] | None = None
    prompt_token_ids: Annotated[list[PromptTokens], Field(min_length=1, max_length=MAX_PROMPTS)] | None = None
    logprobs: Annotated[
        list[Annotated[list[Logprob | None], Field(min_length=1, max_length=MAX_PROMPT_TOKENS)]],
        Field(min_length=1, max_length=MAX_PROMPTS),
    ]
    encodings: Annotated[list[ProbedEncoding], Field(max_length=MAX_PROMPTS)] | None = None
    noise: Annotated[float, Field(ge=0, le=MAX_NOISE, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _rows_match_prompts(self) -> Self:
        prompts = self.prompts if self.prompts is not None else self.prompt_token_ids
        if prompts is None or (self.prompts is not None and self.prompt_token_ids is not None):
            raise ValueError("give either prompts or prompt_token_ids")
        if len(self.logprobs) != len(prompts):
            raise ValueError(f"logprobs has {len(self.logprobs)} rows for {len(prompts)} prompts")
        for number, row in enumerate(self.logprobs):
            rest = _without_first_null(row)
            if None in rest:
                raise ValueError(f"logprobs.{number}: only the first of a row may be null")
            if not rest:
                raise ValueError(f"logprobs.{number}: there is no number in it")
            if self.prompt_token_ids is not None and len(rest) != len(self.prompt_token_ids[number]) - 1:
                raise ValueError(
                    f"logprobs.{number}: {len(rest)} numbers for the {len(self.prompt_token_ids[number])} tokens of"
                    f" prompt_token_ids.{number}; every token but the first has one"
                )
        return self

    def misfit(self, vocab_size: int | None, longest: int | None) -> str | None:
        """Why a model of that vocabulary and context (tokens; None: not known) cannot take these tokens, or None."""
        for number, token_ids in enumerate(self.prompt_token_ids or []):
            if vocab_size is not None and max(token_ids) >= vocab_size:
                return (
                    f"probe.prompt_token_ids.{number}: {max(token_ids)} is not a token of a vocabulary of {vocab_size}"
                )
            if longest is not None and len(token_ids) >= longest:
                return (
                    f"probe.prompt_token_ids.{number}: {len(token_ids)} tokens do not fit a context of {longest} with"
                    " room for one more"
                )
        return None

    def reference(self) -> Reference:
        return Reference(
            kind="reference",
            prompts=self.prompts,
            prompt_token_ids=self.prompt_token_ids,
            logprobs=[[number for number in row if number is not None] for row in self.logprobs],
            noise=self.noise,
            encodings=[each.encoding() for each in self.encodings] if self.encodings else None,
        )


def _without_first_null(row: list[float | None]) -> list[float | None]:
    return row[1:] if row[0] is None else row
