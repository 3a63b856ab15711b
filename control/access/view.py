"""What a request may see of the work of others, where keys are isolated (setting access.isolate_keys)."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import ColumnElement, true
from sqlalchemy.orm import InstrumentedAttribute

from control.access.principal import Principal


@dataclass(frozen=True, slots=True)
class View:
    """`owner`: the key whose work alone is seen; None: everybody's."""

    owner: str | None = None

    def sees(self, created_by: str | None) -> bool:
        return self.owner is None or created_by == self.owner

    def rows(self, created_by: InstrumentedAttribute[str | None]) -> ColumnElement[bool]:
        """The same in SQL."""
        return true() if self.owner is None else created_by == self.owner

    def scoped(self, idempotency_key: str | None) -> str | None:
        """A client's Idempotency-Key, which is its key's alone where keys are isolated. No header holds a line feed."""
        if idempotency_key is None or self.owner is None:
            return idempotency_key
        return f"{self.owner}\n{idempotency_key}"


EVERYTHING = View()


def _view(request: Request) -> View:
    if not request.app.state.services.isolate_keys:
        return EVERYTHING
    principal = Principal.of(request.scope["headers"])
    return EVERYTHING if principal.sees_all else View(principal.actor)


Viewer = Annotated[View, Depends(_view)]
