import pytest

from datagen.arithmetic import exact_answer


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 17+25?", "42"),
        ("Compute 7 * (18 - 11) + 6 / 3.", "51"),
        ("what's 2 \u2212 5", "-3"),
        ("How much is 10 ÷ 4?", "2.5"),
        ("1/3 + 1/3 = ?", "2/3"),
        ("Evaluate -(3 - 10) \u00d7 2", "14"),
        ("What is 0.1 + 0.2?", "0.3"),
        ("Please work out the value of 12-5*2", "2"),
        ("What is 7/0?", None),
        ("What is 42?", None),
        ("Anna has 3 + 4 apples and eats 2. How many are left?", None),
        ("What is 3+4 in binary?", None),
        ("What is 3+4 and 5+6?", None),
        ("What is (3+4?", None),
        ("What is 2 + 2 * ?", None),
        ("What is 20% of 50?", None),
        ("", None),
        ("What is " + "1+" * 5000 + "1?", None),
    ],
)
def test_only_plain_expressions_have_an_answer(question: str, answer: str | None) -> None:
    assert exact_answer(question) == answer
