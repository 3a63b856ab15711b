"""Text within a column of JSON objects, as SQL."""

from typing import Any

from sqlalchemy import ColumnElement, Text, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class _JsonText(FunctionElement[str]):
    """Of a column, and the path to the text as each database writes it."""

    name = "json_text"
    type = Text()
    inherit_cache = True


def json_text(column: ColumnElement[Any] | InstrumentedAttribute[Any], *path: str) -> ColumnElement[str]:
    """NULL where there is none, and where somebody wrote something other than JSON. `path`: names of fields."""
    sqlite, postgresql = "$." + ".".join(path), "{" + ",".join(path) + "}"
    return _JsonText(column, _constant(sqlite), _constant(postgresql))


def _constant(text: str) -> ColumnElement[str]:
    return literal_column(f"'{text}'", Text())


@compiles(_JsonText, "sqlite")
def _of_sqlite(element: _JsonText, compiler: SQLCompiler, **given: Any) -> str:
    """SQLite refuses the whole statement for one row that is not JSON."""
    column, path, _ = (compiler.process(one, **given) for one in element.clauses)
    return f"CASE WHEN json_valid({column}) THEN json_extract({column}, {path}) END"


@compiles(_JsonText, "postgresql")
def _of_postgresql(element: _JsonText, compiler: SQLCompiler, **given: Any) -> str:
    column, _, path = (compiler.process(one, **given) for one in element.clauses)
    return f"({column} #>> {path})"
