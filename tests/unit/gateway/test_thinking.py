import pytest

from gateway.dialects.thinking import ThinkingSplit, split


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "content"),
    [
        ("42", False, "", "42"),
        ("<think>\nsum\n</think>\n\n42", False, "sum", "42"),
        ("\n<think>sum</think>42", False, "sum", "42"),
        ("sum</think>\n42", False, "sum", "42"),
        ("sum\n</think>\n42", True, "sum", "42"),
        ("<think>never closed", False, "never closed", ""),
        ("never closed", True, "never closed", ""),
        ("<think></think>42", False, "", "42"),
        ("a <think>b</think> c", False, "a <think>b", " c"),
        ("x < y and <thin", False, "", "x < y and <thin"),
        ("<thin", False, "", "<thin"),
        ("", False, "", ""),
    ],
)
def test_the_parts_of_a_text(text: str, opened: bool, reasoning: str, content: str) -> None:
    assert split(text, opened=opened) == (reasoning, content)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("<think>\nline one\n\nline two < 3 </thin\n</think>\n\nThe answer </think> is\n42\n", False),
        ("\nline one\n\nline two\n</think>\n\n42", True),
        ("42 <think> is text", False),
        ("<think>cut off </thi", False),
    ],
)
def test_pieces_make_the_same_parts_as_the_whole(text: str, opened: bool, size: int) -> None:
    splitting = ThinkingSplit(opened=opened)
    parts = [splitting.feed(text[start : start + size]) for start in range(0, len(text), size)]
    parts.append(splitting.close())
    together = "".join(part.reasoning for part in parts), "".join(part.content for part in parts)
    assert together == split(text, opened=opened)
