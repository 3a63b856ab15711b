"""Scores whose libraries have no place in control: `python -m evals.scoring_program`, a JSON object a line, in and out.

math-verify stops long computations by an alarm signal, which works in a process's main thread alone, and not even there
while a single big power is worked out: so it runs here, where it can be killed.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from evals.formats.markers import after_hashes
from evals.sample import AnswerForm
from stepserve.process import follow_parent

MEMORY_LIMIT_BYTES = 4 * 1024**3
_OWN = frozenset({"math", "bleu", "chrf"})
_MATH_TIMEOUT_S = 5
_LONGEST_ANSWER = 20_000  # characters; of a longer one the end counts


def score(metric: str, prediction: str, targets: Sequence[str]) -> dict[str, Any]:
    """The fields of a MetricScore."""
    if metric == "math":
        return _best([_math(prediction, target) for target in targets])
    return _sentence(metric, prediction, targets)


def corpus_score(metric: str, stats: Sequence[float]) -> float:
    """The score, 0 to 1, of a corpus whose sentences' counts add up to `stats`."""
    measure = _measure(metric, sentence=False)
    return float(measure._compute_score_from_stats(list(stats)).score) / 100


def _math(prediction: str, target: str) -> dict[str, Any]:
    """The target is parsed as LaTeX; of a prediction what follows `####`, else what math-verify finds."""
    from math_verify import parse, verify  # noqa: PLC0415 - half a second, for those who ask for it

    said = after_hashes(prediction) or prediction[-_LONGEST_ANSWER:]
    wanted = parse(f"${target}$", parsing_timeout=_MATH_TIMEOUT_S) or parse(target, parsing_timeout=_MATH_TIMEOUT_S)
    found = parse(said, parsing_timeout=_MATH_TIMEOUT_S)
    if not found:
        return {"value": 0.0, "correct": False, "parsed": False}
    correct = bool(verify(wanted, found, timeout_seconds=_MATH_TIMEOUT_S))
    return {"value": float(correct), "correct": correct, "extracted": str(found[-1])[:1000]}


def _sentence(metric: str, prediction: str, targets: Sequence[str]) -> dict[str, Any]:
    """Of the sentence by itself, and its counts for a score of the whole corpus."""
    value = _measure(metric, sentence=True).sentence_score(prediction, list(targets)).score / 100
    references = [[target] for target in targets]
    stats = _measure(metric, sentence=False)._extract_corpus_statistics([prediction], references)[0]
    return {
        "value": min(1.0, max(0.0, float(value))),
        "parsed": bool(prediction.strip()),
        "stats": [float(count) for count in stats],
    }


@lru_cache
def _measure(metric: str, *, sentence: bool) -> Any:
    from sacrebleu.metrics import BLEU, CHRF  # noqa: PLC0415 - likewise

    # A sentence of fewer than four words has no 4-grams: sacreBLEU's own sentence score leaves them out.
    return BLEU(effective_order=sentence) if metric == "bleu" else CHRF()


@dataclass(frozen=True, slots=True)
class _Question:
    """An Answerable."""

    accepted: list[str]
    form: AnswerForm
    choices: list[str]


def _installed(request: dict[str, Any]) -> dict[str, Any]:
    """By the scorer of a metric that somebody else's package brings."""
    from evals.metrics import known_metric  # noqa: PLC0415 - for those who have one

    scorer = known_metric(request["metric"]).scorer
    assert scorer is not None
    question = _Question(request["targets"], request["form"], request["choices"])
    return scorer(request["prediction"], question)._asdict()


def _best(scores: list[dict[str, Any]]) -> dict[str, Any]:
    return max(scores, key=lambda one: one["value"])


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        if "stats" in request:
            return {"value": corpus_score(request["metric"], request["stats"])}
        if request["metric"] not in _OWN:
            return _installed(request)
        return score(request["metric"], request["prediction"], request["targets"])
    except Exception as error:  # noqa: BLE001  (whatever a library does with odd text is this text's result)
        return {"value": 0.0, "parsed": False, "error": f"{type(error).__name__}: {str(error)[:200]}"}


def main() -> None:
    follow_parent(signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
