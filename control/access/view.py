"""What a request may see of the work of others, where keys are isolated (setting access.isolate_keys)."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import ColumnElement, true
from sqlalchemy.orm import InstrumentedAttribute

from control.access.principal import Principal
from control.services import Given


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


@dataclass(frozen=True, slots=True)
class Isolation:
    """`isolated`: a key sees what it made itself; administrators see everything."""

    isolated: bool

    def view_of(self, principal: Principal) -> View:
        return View(principal.actor) if self.isolated and not principal.sees_all else EVERYTHING


def _view(request: Request, isolation: Given[Isolation]) -> View:
    return isolation.view_of(Principal.of(request.scope["headers"]))


Viewer = Annotated[View, Depends(_view)]
