"""A pipeline as it can be run: its columns in order, and what each reads. Everything that can be refused is, here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from datagen.errors import Refused
from datagen.pipelines.columns import (
    FIELD,
    Column,
    EachColumn,
    JudgeColumn,
    Placed,
    PromptColumn,
    VerifierColumn,
    placed_columns,
)
from datagen.pipelines.graph import Cycle, ancestors, descendants, in_order
from datagen.schema import validator_of
from datagen.templates import TemplateFailed, names_read
from datagen.verifier import verifier_class, verifier_config
from stepserve.setting_sources import did_you_mean

_MOST_TEMPLATE_CHARACTERS = 400_000
_COLUMN_SETTING = "_field"


@dataclass(frozen=True, slots=True)
class Plan:
    """`templates` by their place in the config (`columns.2.template`, `user`), and what each `reads`; `needs` by
    column; `schemas` by column. `columns` in the order in which they are made: `once` a row, then the one that `split`s
    it, then those `of_items`.
    """

    columns: Sequence[Placed]
    once: Sequence[Placed]
    split: Placed | None
    of_items: Sequence[Placed]
    needs: Mapping[str, Sequence[str]]
    templates: Mapping[str, str]
    reads: Mapping[str, Sequence[str]]
    schemas: Mapping[str, dict[str, Any]]

    @classmethod
    def of(cls, given: Sequence[Mapping[str, Any]], ends: Mapping[str, str]) -> Self:
        """`ends`: templates of the example. Raises Refused, ConfigRefused."""
        placed = placed_columns(given)
        there_are = {each.name: each.column for each in placed}
        templates = {
            f"{each.place}.{field}": text for each in placed for field, text in each.column.templates.items()
        } | dict(ends)
        if sum(map(len, templates.values())) > _MOST_TEMPLATE_CHARACTERS:
            raise Refused(FIELD, f"the templates have more than {_MOST_TEMPLATE_CHARACTERS} characters together")
        reads = {place: _names_read(place, text, there_are) for place, text in templates.items()}
        needs: dict[str, list[str]] = {}
        for each in placed:
            read = [name for field in each.column.templates for name in reads[f"{each.place}.{field}"]]
            needs[each.name] = list(dict.fromkeys([*read, *_named(each, there_are)]))
        schemas = {}
        for each in placed:
            if isinstance(each.column, PromptColumn) and each.column.json_schema is not None:
                validator_of(f"{each.place}.json_schema", each.column.json_schema)
                schemas[each.name] = each.column.json_schema
        by_name = {each.name: each for each in placed}
        try:
            order = [by_name[name] for name in in_order(needs)]
        except Cycle as error:
            raise Refused(by_name[error.names[0]].place, f"a cycle: {error}") from error
        split = _split(placed)
        later = set() if split is None else descendants(split.name, needs)
        once = [each for each in order if each is not split and each.name not in later]
        of_items = [each for each in order if each.name in later]
        columns = [*once, *([] if split is None else [split]), *of_items]
        return cls(columns, once, split, of_items, needs, templates, reads, schemas)

    @property
    def models(self) -> dict[str, str]:
        """Those that columns name themselves, with the field that does."""
        return {
            each.column.model: f"{each.place}.model"
            for each in reversed(self.columns)
            if isinstance(each.column, PromptColumn | JudgeColumn) and each.column.model is not None
        }

    def last_prompt(self, place: str) -> str | None:
        """The prompt column that is asked last of those that lead to a template; None when no model does."""
        leading = ancestors(self.reads[place], self.needs)
        asked = [each.name for each in self.columns if isinstance(each.column, PromptColumn) and each.name in leading]
        return asked[-1] if asked else None


def _names_read(place: str, text: str, known: Mapping[str, Column]) -> list[str]:
    try:
        names = names_read(text)
    except TemplateFailed as error:
        raise Refused(place, str(error)) from error
    for name in names:
        _check_known(place, name, known)
    return names


def _split(placed: Sequence[Placed]) -> Placed | None:
    found = [each for each in placed if isinstance(each.column, EachColumn)]
    if len(found) > 1:
        raise Refused(f"{found[1].place}.kind", f"{found[0].place} splits the row already, and one column can")
    return found[0] if found else None


def _named(each: Placed, known: Mapping[str, Column]) -> list[str]:
    """Columns that one names outside of its templates."""
    column = each.column
    if isinstance(column, EachColumn):
        _check_known(f"{each.place}.of", column.path[0], known)
        return [column.path[0]]
    if not isinstance(column, VerifierColumn):
        return []
    for number, name in enumerate(column.needs):
        _check_known(f"{each.place}.needs.{number}", name, known)
    named = verifier_class(column.verifier, f"{each.place}.verifier")
    place = f"{each.place}.settings"
    config = verifier_config(named, column.settings, place)
    found = list(column.needs)
    for setting in type(config).model_fields:
        value = getattr(config, setting) if setting.endswith(_COLUMN_SETTING) else None
        if not isinstance(value, str):
            continue
        if setting in config.model_fields_set:
            _check_known(f"{place}.{setting}", value, known)
        if value in known:
            found.append(value)
    return found


def _check_known(place: str, name: str, known: Mapping[str, Column]) -> None:
    if name not in known:
        raise Refused(place, f"there is no column {name[:100]!r}{did_you_mean(name[:100], known)}")
