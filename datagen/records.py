"""A training example: as a strategy drafts it, and as a shard holds it.

Every row of every shard has the same keys and the same types, nothing is null, so readers that guess a schema from the
first rows (`datasets.load_dataset("json")`) guess right.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from stepserve.contract import BatchItem, BatchSampling

Format = Literal["messages", "alpaca", "sharegpt", "dpo", "kto", "ranked"]
PREFERENCES: Final = frozenset({"dpo", "kto", "ranked"})
"""Formats that need better and worse answers to one question."""

_INSTRUCTION_FIRST = frozenset({"self_instruct"})
_SHAREGPT = {"user": "human", "assistant": "gpt"}


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another answer to a draft's question: no better, `score` in [0, 1]; `passed`: it was verified all the same."""

    content: str
    score: float
    passed: bool


@dataclass(frozen=True)
class Draft:
    """`turns` end with the assistant's. `verify_score` lies in [0, 1]; `answer` is the final answer where there is one.

    `prompt_sha` is that of the prompt that got the last turn out of the model. `row`: what it was made from, for
    verifiers; it stays out of the shard. `alternatives`: other answers, the best first; `score` is the draft's own.
    """

    turns: tuple[Turn, ...]
    source_id: str
    prompt_sha: str
    sampling: BatchSampling
    finish_reason: str | None = None
    verify_method: str = "none"
    verify_score: float = 0.0
    answer: str = ""
    tags: tuple[str, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)
    score: float = 1.0
    alternatives: tuple[Alternative, ...] = ()

    @cached_property
    def question(self) -> str:
        """What the users' turns say."""
        return "\n".join(turn.content for turn in self.turns if turn.role == "user")

    @property
    def reply(self) -> str:
        return self.turns[-1].content

    @cached_property
    def sha(self) -> str:
        """Of the conversation, whatever led to it."""
        return sha_of([[turn.role, turn.content] for turn in self.turns])


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why something did not become an example: `reason` is a word that is counted, `detail` is for a person."""

    reason: str
    detail: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt brought."""

    drafts: Sequence[Draft] = ()
    rejections: Sequence[Rejection] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """What all examples of a run have in common."""

    job_id: str
    strategy: str
    domain: str
    generator_model: str
    model_digest: str


def record_of(draft: Draft, origin: Origin, *, created_at: str, max_similarity: float) -> dict[str, Any]:
    """The row, in the format `messages`. `max_similarity`: to the nearest known question that the search found."""
    sampling = draft.sampling
    others = [asdict(one) for one in draft.alternatives]
    ranked = {"score": draft.score, "alternatives": others} if others else {}
    return {
        "id": draft.sha[:24],
        "messages": [{"role": turn.role, "content": turn.content} for turn in draft.turns],
        "metadata": {
            "job_id": origin.job_id,
            "strategy": origin.strategy,
            "domain": origin.domain,
            "source_id": draft.source_id,
            "generator_model": origin.generator_model,
            "model_digest": origin.model_digest,
            "prompt_sha": draft.prompt_sha,
            "seed": sampling.seed if sampling.seed is not None else 0,
            "sampling": {
                "temperature": float(sampling.temperature),
                "top_p": float(sampling.top_p),
                "max_tokens": sampling.max_tokens,
            },
            "verify_method": draft.verify_method,
            "verify_score": round(float(draft.verify_score), 4),
            "answer": draft.answer,
            "max_similarity": round(float(max_similarity), 4),
            "created_at": created_at,
            "tags": " ".join(draft.tags),
        },
        **ranked,
    }


def formatted(record: dict[str, Any], format_: Format) -> list[dict[str, Any]]:
    """The rows of an example in a format: one, but of `kto` one an answer. `alpaca` has no place for a system's turn
    but in the instruction. `dpo` and `kto` are TRL's conversational preference and unpaired preference datasets. The
    best answer is a good one unless the record says that it did not pass (`passed`).
    """
    messages, id_, about = record["messages"], record["id"], {"metadata": record["metadata"]}
    match format_:
        case "messages":
            return [{"id": id_, "messages": messages, **about}]
        case "sharegpt":
            turns = [{"from": _SHAREGPT.get(m["role"], m["role"]), "value": m["content"]} for m in messages]
            return [{"id": id_, "conversations": turns, **about}]
        case "alpaca":
            instruction = "\n\n".join(m["content"] for m in messages[:-1])
            return [{"id": id_, "instruction": instruction, "input": "", "output": messages[-1]["content"], **about}]
    best = {"content": messages[-1]["content"], "score": record["score"], "passed": record.get("passed", True)}
    answers = [best, *record["alternatives"]]
    prompt = {"prompt": messages[:-1]}
    said = [[{"role": "assistant", "content": answer["content"]}] for answer in answers]
    scores = [float(answer["score"]) for answer in answers]
    match format_:
        case "dpo":
            pair = {"chosen": said[0], "rejected": said[-1], "score_chosen": scores[0], "score_rejected": scores[-1]}
            return [{"id": id_, **prompt, **pair, **about}]
        case "kto":
            return [
                {
                    "id": f"{id_}-{number}",
                    **prompt,
                    "completion": one,
                    "label": answer["passed"],
                    "score": score,
                    **about,
                }
                for number, (one, answer, score) in enumerate(zip(said, answers, scores, strict=True))
            ]
        case "ranked":
            return [{"id": id_, **prompt, "completions": said, "scores": scores, **about}]


def subject(question: str, strategy: str) -> str:
    """What of a question has to be new: of an instruction with an input the instruction alone."""
    return question.split("\n\n", 1)[0] if strategy in _INSTRUCTION_FIRST else question


def draft_question(record: dict[str, Any]) -> str:
    """What a row in any of the formats asks; empty when it is no such row."""
    if isinstance(record.get("instruction"), str):
        return "\n\n".join(part for part in (record["instruction"], record.get("input")) if part)
    turns = record.get("messages") or record.get("conversations") or record.get("prompt")
    if not isinstance(turns, list):
        return ""
    asked = [
        turn for turn in turns if isinstance(turn, dict) and turn.get("role", turn.get("from")) in {"user", "human"}
    ]
    return "\n".join(str(turn.get("content", turn.get("value", ""))) for turn in asked)


def prompt_sha(item: BatchItem) -> str:
    return sha_of([message.model_dump() for message in item.messages] if item.messages is not None else item.prompt)


def sha_of(value: Any) -> str:
    """Of its JSON: hex, 64 characters."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
