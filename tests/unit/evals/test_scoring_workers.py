import asyncio
import math
import sys

import pytest
from sacrebleu.metrics import BLEU, CHRF

from evals.errors import ScoringBroken
from evals.record import MetricScore
from evals.scoring_program import corpus_score, score
from evals.scoring_workers import ScoringWorkers

TOWER = "$9^{9^{9^{9}}}$"


async def _scores(asked: list[tuple[str, str, str]], limit_s: float = 20.0, workers: int = 2) -> list[MetricScore]:
    async with ScoringWorkers(workers=workers, limit_s=limit_s) as scorers:
        return list(await asyncio.gather(*(scorers.score(metric, said, [target]) for metric, said, target in asked)))


def test_math_knows_what_is_equal() -> None:
    asked = [
        ("math", "so $\\frac{1}{2}$", "0.5"),
        ("math", "it's $1+x^2$", "x^2+1"),
        ("math", "The answer is 42.", "42"),
        ("math", "we get\n#### 7", "7"),
        ("math", "\\boxed{(1,2)} and then 9", "(1, 2)"),
        ("math", "it is 41", "42"),
        ("math", "I do not know", "42"),
    ]
    scores = asyncio.run(_scores(asked))
    assert [(one.correct, one.parsed) for one in scores] == [(True, True)] * 5 + [(False, True), (False, False)]


def test_what_takes_too_long_is_killed_and_the_next_is_scored() -> None:
    slow, quick = asyncio.run(_scores([("math", TOWER, "10^{10^{10^{10}}}"), ("math", "7", "7")], 5.0, workers=1))
    assert (slow.value, slow.parsed, slow.error) == (0.0, False, "took longer than 5 s")
    assert quick.correct is True


def test_a_program_that_does_not_start_says_so() -> None:
    async def scenario() -> None:
        async with ScoringWorkers(program=(sys.executable, "-c", "raise SystemExit(3)")) as scorers:
            await scorers.score("math", "1", ["1"])

    with pytest.raises(ScoringBroken, match="does not start"):
        asyncio.run(scenario())


SAID = ["the cat sat on the mat today", "a dog", "", "we all live here now, do we"]
WANTED = ["the cat sat on a mat", "the dog runs", "nothing", "we all live here now, don't we"]


@pytest.mark.parametrize(("metric", "measure"), [("bleu", BLEU()), ("chrf", CHRF())])
def test_the_corpus_score_is_sacrebleus(metric: str, measure: BLEU | CHRF) -> None:
    sentences = [score(metric, said, [wanted]) for said, wanted in zip(SAID, WANTED, strict=True)]
    sums = [sum(column) for column in zip(*(one["stats"] for one in sentences), strict=True)]
    assert math.isclose(corpus_score(metric, sums) * 100, measure.corpus_score(SAID, [WANTED]).score)
    assert all(0 <= one["value"] <= 1 for one in sentences)
    assert score(metric, WANTED[0], [WANTED[0]])["value"] == pytest.approx(1.0)
