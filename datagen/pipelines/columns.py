"""The columns of a pipeline as its config has them: one model for each kind, told apart by `kind`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from datagen.errors import ConfigRefused, Refused
from datagen.pipelines.samplers import Category, Integers, Normal, Uniform
from datagen.row_config import RowSource, TemplateText
from stepserve.request_model import RequestModel
from stepserve.setting_sources import did_you_mean

FIELD: Final = "columns"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_TAKEN = frozenset((
    "row", "output", "loop", "and", "or", "not", "in", "is", "if", "else", "elif", "endif", "for", "endfor",
    "true", "false", "none", "True", "False", "None",
))  # fmt: skip
"""Words of templates, and names that they know already."""

ModelId = Annotated[str, Field(min_length=1, max_length=200)]


class Column(RequestModel):
    """What all kinds have besides their own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: str

    template_fields: ClassVar[Sequence[str]] = ()
    """Those of its fields that are templates."""

    @property
    def templates(self) -> dict[str, str]:
        """By field; without those that were not given."""
        given = {name: getattr(self, name) for name in self.template_fields}
        return {name: text for name, text in given.items() if text is not None}


class CategoryColumn(Column, Category):
    kind: Literal["category"]


class UniformColumn(Column, Uniform):
    kind: Literal["uniform"]


class NormalColumn(Column, Normal):
    kind: Literal["normal"]


class IntegersColumn(Column, Integers):
    kind: Literal["integers"]


class RowsColumn(Column, RowSource):
    """A row of a dataset. `in_turn`: each once, and then the pipeline is at its end; `random`: any, again and again."""

    kind: Literal["rows"]
    order: Literal["in_turn", "random"] = "in_turn"


class ExpressionColumn(Column):
    """`result`: the filled template as it is, read as JSON, or worked out (plain arithmetic)."""

    template_fields: ClassVar[Sequence[str]] = ("template",)

    kind: Literal["expression"]
    template: TemplateText
    result: Literal["text", "json", "arithmetic"] = "text"


class PromptColumn(Column):
    """A model's answer; with a `json_schema` what its JSON stands for. What is not given is the config's.

    `model`: a registered one, loaded beside the job's own.
    """

    template_fields: ClassVar[Sequence[str]] = ("template", "system")

    kind: Literal["prompt"]
    template: TemplateText
    system: TemplateText | None = None
    model: ModelId | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    json_schema: dict[str, Any] | None = None


class _Checked(Column):
    """`question` and `answer` make what is looked at. `required`: a row that does not pass is dropped."""

    template_fields: ClassVar[Sequence[str]] = ("question", "answer")

    question: TemplateText | None = None
    answer: TemplateText
    required: bool = True


class VerifierColumn(_Checked):
    """An installed verifier by its name, and its settings. Its row has the columns that the settings (`…_field`), the
    templates and `needs` name.
    """

    kind: Literal["verifier"]
    verifier: str
    settings: dict[str, Any] = Field(default={})
    needs: Annotated[list[str], Field(max_length=64)] = Field(default=[])


class JudgeColumn(_Checked):
    """A model's mark from 1 to 5; passed from `min_score` on. As `judge` of the config."""

    kind: Literal["judge"]
    question: TemplateText
    min_score: Annotated[float, Field(ge=1, le=5)] = 4.0
    rubric: Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=20)] = Field(
        default=[]
    )
    prompt: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    model: ModelId | None = None


class EachColumn(Column):
    """Splits the row: one for each item of a list, which is this column's value there. Columns that read it, and those
    that read these, are made for every item; all others once, before.

    `of`: the column that has the list, or a field of it (`pairs.items`). What stands in it after the first `most` items
    is left out, and counted as a rejection.
    """

    kind: Literal["each"]
    of: Annotated[str, Field(min_length=1, max_length=1000)]
    most: Annotated[int, Field(ge=1, le=1000)] = 100

    @property
    def path(self) -> list[str]:
        """The column, and the fields on the way to the list."""
        return self.of.split(".")


KINDS: Final[Mapping[str, type[Column]]] = {
    "category": CategoryColumn,
    "uniform": UniformColumn,
    "normal": NormalColumn,
    "integers": IntegersColumn,
    "rows": RowsColumn,
    "expression": ExpressionColumn,
    "prompt": PromptColumn,
    "verifier": VerifierColumn,
    "judge": JudgeColumn,
    "each": EachColumn,
}


@dataclass(frozen=True, slots=True)
class Placed:
    """A column, and where the config has it: `columns.3`."""

    place: str
    column: Column

    @property
    def name(self) -> str:
        return self.column.name


def placed_columns(given: Sequence[Mapping[str, Any]]) -> list[Placed]:
    """Raises Refused and ConfigRefused naming the field."""
    placed: list[Placed] = []
    places: dict[str, str] = {}
    for number, each in enumerate(given):
        place = f"{FIELD}.{number}"
        column = _column(each, place)
        if not _NAME.fullmatch(column.name):
            raise Refused(
                f"{place}.name", f"{column.name[:100]!r} is not a valid name: letters, digits and _, a letter first"
            )
        if column.name in _TAKEN:
            raise Refused(f"{place}.name", f"{column.name!r} means something else in templates: take another name")
        if column.name in places:
            raise Refused(f"{place}.name", f"{column.name!r} is the name of {places[column.name]} already")
        places[column.name] = place
        placed.append(Placed(place, column))
    return placed


def _column(given: Mapping[str, Any], place: str) -> Column:
    kind = given.get("kind")
    if kind is None:
        raise Refused(f"{place}.kind", f"is missing; known are {', '.join(KINDS)}")
    if not isinstance(kind, str) or kind not in KINDS:
        shown = str(kind)[:100]
        raise Refused(
            f"{place}.kind", f"{shown!r} is not a kind; known are {', '.join(KINDS)}{did_you_mean(shown, KINDS)}"
        )
    try:
        return KINDS[kind].model_validate(given)
    except ValidationError as error:
        raise ConfigRefused(error, place) from error
