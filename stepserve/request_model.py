"""Bodies of our own routes: a field that is null is one that was not sent."""

from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, model_validator


class RequestModel(BaseModel):
    """Clients in other languages send every field they know of, null where they have nothing to say.

    A null counts as absent unless the field is required, or takes None for a value of its own.
    """

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict) or None not in given.values():
            return given
        return {name: value for name, value in given.items() if value is not None or not cls._may_be_left_out(name)}

    @classmethod
    def _may_be_left_out(cls, name: object) -> bool:
        field = cls.model_fields.get(name) if isinstance(name, str) else None
        if field is None or field.is_required() or field.annotation is Any:
            return False
        return NoneType not in get_args(field.annotation)
