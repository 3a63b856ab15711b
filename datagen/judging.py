"""The optional judge: a model marks an example, and a low mark is a rejection. Labelled answers can calibrate it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datagen.asking import Asking
from datagen.errors import LowAgreement, Refused
from datagen.judge_config import Judging
from datagen.solving import chat
from datagen.strategy import Sources
from datagen.verifier import Candidate, Verdict
from stepserve.contract import BatchOutput, BatchSampling

PROMPT: Final = (
    "Below are a task and an answer to it. Mark the answer from 1 (useless or wrong) to 5 (right, complete and clear)."
    "{rubric} Write the mark alone, a single digit.\n\nTask:\n{question}\n\nAnswer:\n{answer}\n\nMark:"
)
_PLACE = re.compile(r"\{(question|answer)\}")
_MARK = re.compile(r"(?<![0-9.])([1-5])(?![0-9])")
_SAMPLING = BatchSampling(max_tokens=8)
_MOST_LABELLED = 10_000
_AT_ONCE = 64
_WORDS = {"good": True, "bad": False, "right": True, "wrong": False}


@dataclass(frozen=True, slots=True)
class Labelled:
    """An answer of which somebody said whether it is good."""

    question: str
    answer: str
    is_good: bool


class Judge:
    """A verifier (datagen.verifier), made from `config.judge`."""

    def __init__(self, config: Judging, labelled: Sequence[Labelled]) -> None:
        self._config = config
        self._labelled = labelled
        self._prompt = config.prompt or PROMPT.replace("{rubric}", _criteria(config.rubric))

    @classmethod
    def open(cls, config: Judging, sources: Sources) -> "Judge":
        """Blocks; raises Refused naming the line of the calibration file."""
        if config.calibration is None:
            return cls(config, ())
        return cls(config, labelled_answers(sources.file("judge.calibration", config.calibration), config.min_score))

    @property
    def models(self) -> Sequence[str]:
        return () if self._config.model is None else (self._config.model,)

    async def verify(self, candidate: Candidate, ask: Asking) -> Verdict:
        (output,) = await self._asked([(candidate.question, candidate.reply)], ask)
        mark = _mark(output)
        if mark is None:
            why = "no mark from 1 to 5" if output.error is None else f"it cannot be asked: {output.error[:200]}"
            return Verdict(passed=False, score=0.0, why=why, reason="judge_without_mark")
        score = (mark - 1) / 4
        if mark < self._config.min_score:
            return Verdict(passed=False, score=score, why=f"marked {mark}", reason="judge")
        return Verdict(passed=True, score=score)

    async def calibrate(self, ask: Asking) -> dict[str, Any] | None:
        """How far it agrees with the labels; None without any. Raises LowAgreement."""
        if not self._labelled:
            return None
        passed: list[bool | None] = []
        for start in range(0, len(self._labelled), _AT_ONCE):
            part = self._labelled[start : start + _AT_ONCE]
            marks = [_mark(output) for output in await self._asked([(one.question, one.answer) for one in part], ask)]
            passed += [None if mark is None else mark >= self._config.min_score for mark in marks]
        found = agreement(passed, [one.is_good for one in self._labelled])
        wanted = self._config.min_agreement
        if wanted is not None and found["agreement"] < wanted:
            raise LowAgreement(wanted, found)
        return found

    async def _asked(self, pairs: Sequence[tuple[str, str]], ask: Asking) -> list[BatchOutput]:
        items = [chat(self._filled({"question": question, "answer": answer}), _SAMPLING) for question, answer in pairs]
        model = self._config.model
        return await ask(items) if model is None else await ask.model(model, items)

    def _filled(self, texts: Mapping[str, str]) -> str:
        """At one go: a question that has `{answer}` in it stays what it is."""
        return _PLACE.sub(lambda place: texts[place[1]], self._prompt)


def agreement(passed: Sequence[bool | None], labels: Sequence[bool]) -> dict[str, Any]:
    """Of the judge with the labels; no mark counts as not passed. `kappa` (Cohen 1960) is what is left of it without
    what chance alone gives; 0 where all labels or all verdicts are alike."""
    total = len(labels)
    verdicts = [one is True for one in passed]
    same = sum(verdict == label for verdict, label in zip(verdicts, labels, strict=True)) / total
    good, kept = sum(labels) / total, sum(verdicts) / total
    by_chance = good * kept + (1 - good) * (1 - kept)
    return {
        "rows": total,
        "agreement": round(same, 4),
        "kappa": round((same - by_chance) / (1 - by_chance), 4) if by_chance < 1 else 0.0,
        "false_accepts": sum(verdict and not label for verdict, label in zip(verdicts, labels, strict=True)),
        "false_rejects": sum(label and not verdict for verdict, label in zip(verdicts, labels, strict=True)),
        "without_mark": sum(one is None for one in passed),
    }


def labelled_answers(path: Path, min_score: float) -> list[Labelled]:
    """Blocks; raises Refused naming the line."""
    found: list[Labelled] = []
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                if raw.strip():
                    found.append(_labelled(raw, f"{path.name}, line {line}", min_score))
                if len(found) > _MOST_LABELLED:
                    raise Refused("judge.calibration", f"{path.name} has more than {_MOST_LABELLED} rows")
    except OSError as error:
        raise Refused("judge.calibration", f"{path.name} cannot be read: {error.strerror}") from error
    if not found:
        raise Refused("judge.calibration", f"{path.name} has no rows")
    return found


def _labelled(raw: bytes, place: str, min_score: float) -> Labelled:
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refused("judge.calibration", f"{place}: not valid JSON: {error}") from error
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("question", "answer")):
        raise Refused("judge.calibration", f"{place}: needs the texts 'question' and 'answer'")
    label = row.get("label")
    if isinstance(label, str):
        label = _WORDS.get(label.strip().casefold())
    if isinstance(label, int | float) and not isinstance(label, bool) and 1 <= label <= 5:
        label = label >= min_score
    if not isinstance(label, bool):
        raise Refused("judge.calibration", f"{place}: 'label' is not true, false, good, bad or a mark from 1 to 5")
    return Labelled(row["question"], row["answer"], label)


def _criteria(rubric: Sequence[str]) -> str:
    return "".join(f"\n- {line}" for line in rubric) + "\n" if rubric else ""


def _mark(output: BatchOutput) -> int | None:
    found = _MARK.search(output.text)
    return None if found is None or output.error is not None else int(found[1])
