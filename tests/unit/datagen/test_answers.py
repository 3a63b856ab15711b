import time

import pytest

from datagen.answers import final_answer, is_right, is_right_sum
from datagen.arithmetic import exact_answer
from datagen.strategies.self_instruct import instances, labelled_instances


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("42", "42"),
        ("First 6 * 7.\n#### 42", "42"),
        ("So we get \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("The answer is 1,234 apples.", "1,234"),
        ("3 + 4 = 7, and then 7 - 2 = 5", "5"),
        ("Paris", "Paris"),
        ("I cannot say.\nIt depends.", None),
        ("", None),
    ],
)
def test_the_final_answer_is_found_where_solutions_put_it(solution: str, answer: str | None) -> None:
    assert final_answer(solution) == answer


def test_a_solution_is_right_by_its_answer_alone() -> None:
    assert is_right("6 times 7 makes 42.", "42")
    assert is_right("forty-two", "Forty-Two")
    assert not is_right("It is not 42 but 43", "42")


@pytest.mark.parametrize(
    ("solution", "right"),
    [
        ("80", True),
        ("It is 80.", True),
        ("11 and 69 make \\boxed{80}", True),
        ("2nd: 11+69 = 80 (done)", True),
        ("11+69=80", True),
        ("11 + 69 = 10 + 70 = **80**", True),
        ("11+60=71,\n71+9=80.", True),
        ("$80$", True),
        ("= (80)", True),
        ("11+69=80\n#### 80", True),
        ("(80", False),
        ("6?80", False),
        ("80)", False),
        ("12+69=80", False),
        ("((((" * 100 + "80", False),
        ("080", False),
        ("11+69 makes 080", False),
        ("It is 80.00", True),
        ("80t", False),
        ("80t6", False),
        ("eighty", False),
        ("", False),
        ("The answer is 80th.", False),
        ("81", False),
    ],
)
def test_a_sum_stands_alone(solution: str, right: bool) -> None:
    assert is_right_sum(solution, "80") is right


@pytest.mark.parametrize("solution", ["1,234", "1000 + 234 = 1,234", "1,034+200 = 1234.0"])
def test_a_sum_may_have_thousands_separators(solution: str) -> None:
    assert is_right_sum(solution, "1234")


@pytest.mark.parametrize("unit", ["9", "a", "9 ", "(", " ", "\n", "1+", "answer is ", "####", "input:\n", "label: \n"])
def test_no_text_takes_long(unit: str) -> None:
    """What a model says, and what a template makes, may be 200,000 characters."""
    text = "answer " + unit * (200_000 // len(unit))
    started_s = time.process_time()
    exact_answer(text)
    is_right_sum(text, "5")
    final_answer(text)
    instances(text)
    labelled_instances(text)
    assert time.process_time() - started_s < 10
