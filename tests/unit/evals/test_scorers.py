import json
import time

import pytest

from evals.formats import parse_sample
from evals.metrics import known_metric
from evals.scorers import SCORERS, Answerable, Score


def _score(metric: str, prediction: str, question: Answerable) -> Score:
    scorer = known_metric(metric).scorer
    assert scorer is not None
    return scorer(prediction, question)


@pytest.mark.parametrize(
    ("prediction", "target", "extracted"),
    [
        ("The answer is 42.", "42", "42"),
        ("12 and 30 make 42", "42.0", "42"),
        ("so it costs $1,234.50", "1234.5", "$1,234.50"),
        ("x = -3/4", "-0.75", "-3/4"),
        ("1.5e3 m", "1500", "1.5e3"),
        ("$\\frac{1}{2}$", "0.5", "1/2"),
        ("it is 7, and then\n#### 8\nbecause 9", "8", "8"),
        ("\\boxed{5} (in 3 steps)", "5", "5"),
        ("\N{MINUS SIGN}5", "-5", "-5"),
        ("10-5 is 5", "5", "5"),
        ("\uff11\uff12", "12", "12"),
        ("100 %", "100", "100"),
        ("18 dollars", "$18.00", "18"),
    ],
)
def test_numeric_takes_the_last_number(prediction: str, target: str, extracted: str) -> None:
    score = SCORERS["numeric"](prediction, target)
    assert (score.correct, score.extracted) == (True, extracted)


@pytest.mark.parametrize(
    ("prediction", "target"),
    [("41", "42"), ("0.333", "1/3"), ("1e999999999", "5"), ("5/0", "5"), ("9" * 5000, "9"), ("1,23", "123")],
)
def test_numeric_is_exact(prediction: str, target: str) -> None:
    assert SCORERS["numeric"](prediction, target).correct is False


def test_numeric_without_a_number_is_unparsed() -> None:
    assert SCORERS["numeric"]("I do not know", "42").parsed is False


CHOICE = parse_sample(
    json.dumps(
        {"question": "Capital of France?", "choices": ["London", "Paris", "Rome", "Bonn"], "answer": 1}
    ).encode(),
    line=1,
    index=0,
)


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("B", "B"),
        (" b.", "B"),
        ("(B)", "B"),
        ("B. Paris", "B"),
        ("**B**", "B"),
        ("B\nbecause", "B"),
        ("The answer is B.", "B"),
        ("The answer is (B) Paris", "B"),
        ("Answer: **B**", "B"),
        ("A is wrong. The answer is C", "C"),
        ("\\boxed{\\text{B}}", "B"),
        ("paris.", "B"),
        ("I choose B", "B"),
        ("A city on the Seine, so B", "B"),
        ("A big city", None),
        ("A or B", None),
        ("E", None),
        ("", None),
        ("no idea", None),
    ],
)
def test_multiple_choice_by_letter(prediction: str, letter: str | None) -> None:
    score = _score("multiple_choice", prediction, CHOICE)
    assert score.extracted == letter
    assert (score.correct, score.parsed) == (letter == "B", letter is not None)


def _gsm8k(prediction: str) -> tuple[bool | None, bool]:
    sample = parse_sample(b'{"question": "q", "answer": "sum\\n#### 1,234"}', line=1, index=0)
    score = _score("accuracy", prediction, sample)
    return score.correct, score.parsed


def test_accuracy_looks_where_the_format_puts_the_answer() -> None:
    assert _gsm8k("so\n#### 1234") == (True, True)
    assert _gsm8k("#### 5") == (False, True)
    assert _gsm8k("1234") == (True, True)
    assert _gsm8k("it is 1234") == (False, False)
    sample = parse_sample(b'{"problem": "q", "solution": "\\\\boxed{7}"}', line=1, index=0)
    assert _score("accuracy", "then $\\boxed{7}$.", sample).correct is True


def test_any_of_several_targets_will_do() -> None:
    sample = parse_sample(b'{"input": "q", "ideal": ["four", "4"]}', line=1, index=0)
    assert _score("exact_match", "4.", sample).correct is True
    assert _score("f1", "the four", sample).value == 1.0


@pytest.mark.parametrize(
    ("prediction", "target", "value"),
    [("the cat sat", "a cat sat down", 0.8), ("dog", "cat", 0.0), ("The, a", "an", 1.0), ("", "cat", 0.0)],
)
def test_f1_is_that_of_squad(prediction: str, target: str, value: float) -> None:
    assert SCORERS["f1"](prediction, target).value == pytest.approx(value)


@pytest.mark.parametrize(
    ("prediction", "target", "value"),
    [
        # Lin, "ROUGE: a package for automatic evaluation of summaries" (2004), section 3: 3/4, 2/4 and 2/4.
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("the gunman police killed", "police killed the gunman", 0.5),
        ("", "police", 0.0),
    ],
)
def test_rouge_l_is_that_of_lin(prediction: str, target: str, value: float) -> None:
    assert SCORERS["rouge_l"](prediction, target).value == pytest.approx(value)


def test_rouge_l_of_long_texts_is_quick() -> None:
    words = " ".join(str(number) for number in range(100_000))
    assert SCORERS["rouge_l"](words, words).value == 1.0


@pytest.mark.parametrize("metric", ["accuracy", "numeric", "multiple_choice", "f1", "rouge_l"])
@pytest.mark.parametrize("unit", [" ", "*", "answer ", "\\frac{ ", "1,", "####", "\\boxed{", "```\n", "A ", "9"])
def test_no_text_takes_long(metric: str, unit: str) -> None:
    started = time.perf_counter()
    _score(metric, "answer" + unit * 20_000, CHOICE)
    assert time.perf_counter() - started < 2.0
