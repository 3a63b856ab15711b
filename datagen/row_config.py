"""What strategies that fill a template with rows have in common."""

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from datagen.config import GenerationConfig
from datagen.rows import Row, RowFile
from datagen.strategy import Sources
from stepserve.request_model import RequestModel

_MOST_INLINE_ROWS = 10_000

TemplateText = Annotated[str, Field(min_length=1, max_length=50_000)]


class RowSource(RequestModel):
    """Rows come from `rows`, from `dataset_ref` (in datasets/) or from `input` (a JSONL file in the base directory)."""

    rows: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=_MOST_INLINE_ROWS)] | None = None
    dataset_ref: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    input: Annotated[str, Field(min_length=1, max_length=4096)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.rows, self.dataset_ref, self.input)) > 1:
            raise ValueError("rows come from one of rows, dataset_ref and input")
        return self

    def opened_rows(self, sources: Sources) -> RowFile | Sequence[Row] | None:
        """Blocks; raises Refused."""
        if self.dataset_ref is not None:
            return RowFile.in_datasets(self.dataset_ref, sources.datasets_dir)
        if self.input is not None:
            return RowFile("input", sources.file("input", self.input))
        return self.rows


class RowConfig(GenerationConfig, RowSource):
    """`template` makes the prompt of a row; without rows there is one empty row, for ever. `answer_field`: a row's
    known answer."""

    template: TemplateText
    answer_field: Annotated[str, Field(min_length=1, max_length=200)] = "answer"

    def known_answer(self, row: Row) -> str | None:
        value = row.get(self.answer_field)
        return None if not isinstance(value, str | int | float) or isinstance(value, bool) else str(value)
