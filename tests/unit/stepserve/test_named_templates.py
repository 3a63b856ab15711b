"""What a chat template's name stands for."""

from pathlib import Path

import pytest

from stepserve.named_templates import BUILT_IN, LONGEST_CHARACTERS, template_text


def test_names_files_and_texts(tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    assert all("add_generation_prompt" in template_text(name, folder) for name in BUILT_IN), "without such a folder"
    folder.mkdir()
    (folder / "mine.jinja").write_text("{{ messages }} é")
    assert template_text("mine", folder) == template_text("mine.jinja", folder) == "{{ messages }} é"
    (folder / "plain.jinja").write_text("{{ messages }} my own")
    assert template_text("plain", folder) == "{{ messages }} my own", "the user's comes first"
    assert template_text("{{ messages }}", folder) == "{{ messages }}"


def test_a_path_is_for_the_operator_alone(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.jinja"
    file.write_text("{{ messages }}")
    assert template_text(str(file), tmp_path / "templates", anywhere=True) == "{{ messages }}"
    with pytest.raises(ValueError, match="no chat template is called"):
        template_text(str(file), tmp_path / "templates")
    with pytest.raises(ValueError, match=r"gone\.jinja cannot be read: No such file"):
        template_text(str(tmp_path / "gone.jinja"), tmp_path / "templates", anywhere=True)


@pytest.mark.parametrize("wanted", ["nothing", "../mine", "x" * 10_000, "Question: {question}", "a\0b"])
def test_what_is_no_template_is_said_with_what_there_is(wanted: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    with pytest.raises(ValueError, match=r"built in are alpaca, chatml, plain, .* has mine, and a text"):
        template_text(wanted, tmp_path)


@pytest.mark.parametrize("text", ["{{ messages }}" + "x" * LONGEST_CHARACTERS, "{{ messages }}\0"])
def test_a_text_that_cannot_be_a_template(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is longer than|zero byte"):
        template_text(text, tmp_path)
