import pytest

from evals.scorers.exact_match import exact_match, normalise


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("42", "42"),
        (" 42\n", "42"),
        ("42.", "42"),
        ("42.0", "42"),
        ("42.50", "42.5"),
        ("+42", "42"),
        ("042", "42"),
        ("-0.0", "0"),
        ("-7", "-7"),
        ("\u22127", "-7"),
        (".5", "0.5"),
        ("-.50", "-0.5"),
        ("1,234", "1234"),
        ("1,234,567.80", "1234567.8"),
        ("12,34", "12,34"),
        ("1234,567", "1234,567"),
        ("1e3", "1e3"),
        ("1/2", "1/2"),
        ("$5", "$5"),
        ("1.2.3", "1.2.3"),
        ("\uff14\uff12", "42"),
        ("Paris.", "paris"),
        ("PARIS", "paris"),
        ("Stra\u00dfe", "strasse"),
        ("new \t\n york", "new york"),
        ("new\u00a0york", "new york"),
        ("e\u0301", "\u00e9"),
        ("etc. .", "etc."),
        (".", "."),
        ("", ""),
        ("   ", ""),
        ("-", "-"),
        ("0.1000000000000000000000000000000000000001", "0.1000000000000000000000000000000000000001"),
        ("123456789012345678901234567890123456789012.0", "123456789012345678901234567890123456789012"),
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert normalise(text) == normal


def test_numbers_that_a_float_would_confuse_differ() -> None:
    assert not exact_match("9007199254740993", "9007199254740992").correct


@pytest.mark.parametrize(
    ("prediction", "target", "correct"),
    [
        ("42", "42.0", True),
        ("The answer is 42", "42", False),
        ("", "42", False),
        ("", ".", False),
        ("YES", "yes.", True),
    ],
)
def test_exact_match(prediction: str, target: str, correct: bool) -> None:
    score = exact_match(prediction, target)
    assert score.correct is correct
    assert score.value == float(correct)
