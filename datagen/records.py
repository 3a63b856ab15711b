"""A training example: as a strategy drafts it, and as a shard holds it.

Every row of every shard has the same keys and the same types, nothing is null, so readers that guess a schema from the
first rows (`datasets.load_dataset("json")`) guess right.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stepserve.contract import BatchItem, BatchSampling

Format = Literal["messages", "alpaca", "sharegpt"]

_INSTRUCTION_FIRST = frozenset({"self_instruct"})
_SHAREGPT = {"user": "human", "assistant": "gpt"}


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Draft:
    """`turns` end with the assistant's. `verify_score` lies in [0, 1]; `answer` is the final answer where there is one.

    `prompt_sha` is that of the prompt that got the last turn out of the model.
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

    @property
    def question(self) -> str:
        """What the users' turns say."""
        return "\n".join(turn.content for turn in self.turns if turn.role == "user")

    @property
    def reply(self) -> str:
        return self.turns[-1].content

    @property
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
    }


def formatted(record: dict[str, Any], format_: Format) -> dict[str, Any]:
    """The row in another format; `alpaca` has no place for a system's turn but in the instruction."""
    messages, rest = record["messages"], {"id": record["id"], "metadata": record["metadata"]}
    match format_:
        case "messages":
            return record
        case "sharegpt":
            turns = [{"from": _SHAREGPT.get(m["role"], m["role"]), "value": m["content"]} for m in messages]
            return {"id": rest["id"], "conversations": turns, "metadata": rest["metadata"]}
        case "alpaca":
            instruction = "\n\n".join(m["content"] for m in messages[:-1])
            return {
                "id": rest["id"],
                "instruction": instruction,
                "input": "",
                "output": messages[-1]["content"],
                "metadata": rest["metadata"],
            }


def subject(question: str, strategy: str) -> str:
    """What of a question has to be new: of an instruction with an input the instruction alone."""
    return question.split("\n\n", 1)[0] if strategy in _INSTRUCTION_FIRST else question


def draft_question(record: dict[str, Any]) -> str:
    """What a row in any of the formats asks; empty when it is no such row."""
    if isinstance(record.get("instruction"), str):
        return "\n\n".join(part for part in (record["instruction"], record.get("input")) if part)
    turns = record.get("messages") or record.get("conversations")
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
