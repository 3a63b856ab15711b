"""What a person asks for (`POST /data_gen/jobs`): what every strategy understands. Each adds its own fields."""

import secrets
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from datagen.decontamination import DEFAULT_WORDS
from datagen.filters import Lengths
from datagen.judge_config import Judging
from datagen.places import SHARDS, check_folder
from datagen.quality.config import Quality
from datagen.records import PREFERENCES, Format
from stepserve.request_model import RequestModel

MAX_EXAMPLES = 5_000_000
_ATTEMPTS_AN_EXAMPLE = 10
_FEWEST_ATTEMPTS = 100
_SEEDS = 2**53  # every JSON reader takes these exactly
_SYNONYMS = {"num_samples": "num_examples", "target_domain": "domain"}
Share = Annotated[float, Field(ge=0, le=1)]


class GenerationConfig(RequestModel):
    """`num_samples` and `target_domain` are other names of `num_examples` and `domain`.

    `max_similarity`: a question nearer than that to a known one (ROUGE-L) is not new; None: the strategy's own limit.
    `seed`: drawn when it is not given, and kept. `verifiers`: each with its `name` and settings (datagen.verifier).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preferences: ClassVar[bool] = False
    """Whether the strategy ranks answers, so that there can be pairs of them."""

    num_examples: Annotated[int, Field(ge=1, le=MAX_EXAMPLES)] = 100
    domain: Annotated[str, Field(max_length=100)] = ""
    output_dir: Annotated[str, Field(min_length=1, max_length=1000)] = SHARDS
    shard_size: Annotated[int, Field(ge=1, le=100_000)] = 1000
    format: Format = "messages"
    parquet: bool = False
    max_attempts: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=_SEEDS)] = Field(default_factory=lambda: secrets.randbelow(_SEEDS))

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    system_prompt: Annotated[str, Field(max_length=100_000)] | None = None

    filters: list[str] | None = None
    min_question_chars: Annotated[int, Field(ge=0)] = 3
    max_question_chars: Annotated[int, Field(ge=1)] = 32_000
    min_answer_chars: Annotated[int, Field(ge=0)] = 1
    max_answer_chars: Annotated[int, Field(ge=1)] = 32_000
    max_similarity: Share | None = None
    against_earlier_shards: bool = True
    decontaminate: bool = True
    decontaminate_words: Annotated[int, Field(ge=4, le=100)] = DEFAULT_WORDS
    decontaminate_except: list[str] = Field(default=[])
    verifiers: Annotated[list[dict[str, Any]], Field(max_length=8)] = Field(default=[])
    judge: Judging | None = None
    quality: Quality = Quality()

    @model_validator(mode="before")
    @classmethod
    def _one_name_each(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = dict(given)
        for synonym, name in _SYNONYMS.items():
            if synonym in given:
                if name in given:
                    raise ValueError(f"{name} and {synonym} are the same: give one")
                given[name] = given.pop(synonym)
        return given

    @field_validator("output_dir")
    @classmethod
    def _inside(cls, folder: str) -> str:
        return check_folder(folder)

    @model_validator(mode="after")
    def _lengths_make_sense(self) -> Self:
        if self.min_question_chars > self.max_question_chars:
            raise ValueError("min_question_chars is larger than max_question_chars")
        if self.min_answer_chars > self.max_answer_chars:
            raise ValueError("min_answer_chars is larger than max_answer_chars")
        return self

    @model_validator(mode="after")
    def _can_rank(self) -> Self:
        if self.format in PREFERENCES and not self.preferences:
            raise ValueError(f"format {self.format} needs a strategy that ranks answers, such as best_of_n")
        return self

    @property
    def lengths(self) -> Lengths:
        return Lengths(
            self.min_question_chars, self.max_question_chars, self.min_answer_chars, self.max_answer_chars
        )  # fmt: skip

    def attempts_at_most(self, there_are: int | None) -> int:
        """`there_are`: as many as the strategy has; None: no end of them."""
        wished = self.max_attempts
        if wished is None:
            wished = max(_FEWEST_ATTEMPTS, _ATTEMPTS_AN_EXAMPLE * self.num_examples) if there_are is None else there_are
        return wished if there_are is None else min(wished, there_are)
