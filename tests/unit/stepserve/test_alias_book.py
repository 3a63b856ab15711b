"""Aliases of the settings and of the file."""

from pathlib import Path

import pytest

from stepserve.alias_book import AliasBook, AliasRefused
from stepserve.setting_sources import SettingsRefused
from stepserve.settings import Alias

CONFIGURED = {"gpt-4o": Alias(model="active")}


def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    book = AliasBook(CONFIGURED, tmp_path / "aliases.json")
    seen = book.by_name
    assert book.put("exact", Alias(model="a", temperature=0))
    assert not book.put("exact", Alias(model="b", temperature=0))
    assert seen["exact"].model == "b", "who holds the mapping sees what is so now"
    again = AliasBook(CONFIGURED, tmp_path / "aliases.json")
    assert again.by_name == {"exact": Alias(model="b", temperature=0), **CONFIGURED}
    again.remove("exact")
    book.read()
    assert seen == CONFIGURED


@pytest.mark.parametrize(
    ("name", "model", "said"),
    [
        ("active", "a", "active"),
        ("", "a", "printable"),
        ("x\n", "a", "printable"),
        ("x" * 301, "a", "300"),
        ("x", "x", "stand for itself"),
        ("x", "gpt-4o", "alias itself"),
        ("gpt-4o", "a", "settings"),
        ("b", "a", "stands for a model called"),
    ],
)
def test_an_alias_that_cannot_be(tmp_path: Path, name: str, model: str, said: str) -> None:
    book = AliasBook(CONFIGURED, tmp_path / "aliases.json")
    book.put("to-b", Alias(model="b"))
    before = dict(book.by_name)
    with pytest.raises(AliasRefused, match=said):
        book.put(name, Alias(model=model))
    assert book.by_name == before == AliasBook(CONFIGURED, tmp_path / "aliases.json").by_name


def test_the_settings_have_the_last_word(tmp_path: Path) -> None:
    book = AliasBook({}, tmp_path / "aliases.json")
    book.put("gpt-4o", Alias(model="a"))
    book.configure(CONFIGURED)
    assert book.by_name["gpt-4o"].model == "active"
    with pytest.raises(AliasRefused, match="settings"):
        book.remove("gpt-4o")
    book.configure({})
    assert book.by_name["gpt-4o"].model == "a"
    with pytest.raises(KeyError):
        book.remove("nope")


def test_a_file_of_somebody_elses_is_named(tmp_path: Path) -> None:
    (tmp_path / "aliases.json").write_text("[]")
    with pytest.raises(SettingsRefused, match=r"aliases\.json"):
        AliasBook({}, tmp_path / "aliases.json")
