import pytest

from gateway.dialects.native.answers import code_block, math_answer


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"So it is \boxed{42}.", "42"),
        (r"\boxed{1} and then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{7} but \boxed{unclosed", "7"),
        ("17 + 25\n#### 42", "42"),
        ("The answer is **42**.", "42"),
        ("Answer: $3/4$", "3/4"),
        ("First 17, then 25, together 1,042.", "1042"),
        ("42", "42"),
        ("no number at all", "no number at all"),
        ("no number\nat all", None),
        ("", None),
    ],
)
def test_the_answer_in_a_solution(solution: str, answer: str | None) -> None:
    assert math_answer(solution) == answer


@pytest.mark.parametrize(
    ("solution", "code"),
    [
        ("Here:\n```python\nprint(42)\n```\nDone.", "print(42)"),
        ("```\na\n```\n```python\ndef f():\n    return 1\n```", "def f():\n    return 1"),
        ("````md\n```\ninner\n```\n````", "```\ninner\n```"),
        ("```python\nprint(1)", "print(1)"),
        ("~~~\nx\n~~~", "x"),
        ("print(42)", None),
    ],
)
def test_the_code_in_a_solution(solution: str, code: str | None) -> None:
    assert code_block(solution) == code
