"""Control's registry, asked over its Unix socket when a request names a model that is not loaded."""

from urllib.parse import quote

import httpx
from pydantic import ValidationError

from gateway.errors import LoadFailed, Unserved
from gateway.sidecar.control_link import ControlProxy
from stepserve.contract import CONTROL_LOADABLE_PATH, LoadRequest, RegisteredModel, RegisteredModels

_TIMEOUT_S = 30.0  # a large checkpoint whose digest is not cached is read once


class ControlDirectory:
    """Implements gateway.serving.router.Directory."""

    def __init__(self, link: ControlProxy) -> None:
        self._link = link

    async def find(self, name: str) -> LoadRequest | None:
        try:
            answer = await self._link.get(f"{CONTROL_LOADABLE_PATH}/{quote(name, safe='')}", _TIMEOUT_S)
        except httpx.HTTPError as error:
            raise Unserved(
                f"`{name}` is not loaded, and control, which knows the registered models, is away.", 2.0
            ) from error
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise LoadFailed(name, _detail(answer), None)
        try:
            return LoadRequest.model_validate_json(answer.content)
        except ValidationError as error:
            raise Unserved(
                f"control's answer about `{name}` makes no sense: are both of the same version?", 5.0
            ) from error

    async def names(self) -> list[str]:
        """What registered models answer to, the newest's names first; none when control is away."""
        listed = await self.listed()
        return [*(each.id for each in listed), *(each.repository for each in listed if each.repository is not None)]

    async def listed(self) -> list[RegisteredModel]:
        """Newest first; none when control is away."""
        try:
            answer = await self._link.get(CONTROL_LOADABLE_PATH, 2.0)
            answer.raise_for_status()
            return RegisteredModels.model_validate_json(answer.content).models
        except (httpx.HTTPError, ValidationError):
            return []


class NoDirectory:
    """Of a member of a fleet, which serves what is committed there and loads nothing for a request."""

    async def find(self, _name: str) -> LoadRequest | None:
        return None

    async def names(self) -> list[str]:
        return []

    async def listed(self) -> list[RegisteredModel]:
        return []


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"control answered {answer.status_code}"
