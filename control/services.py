"""What routes may ask for: each names the type of the one part it needs, and control.app provides it."""

from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from fastapi import Depends, Request

Part = TypeVar("Part")


class Services:
    """The parts of this process, by their type."""

    def __init__(self, *parts: object) -> None:
        self._parts = {type(part): part for part in parts}
        assert len(self._parts) == len(parts), "two parts of one type"

    def __getitem__(self, kind: type[Part]) -> Part:
        part = self._parts[kind]
        assert isinstance(part, kind)
        return part

    def __contains__(self, kind: type) -> bool:
        return kind in self._parts


class Provided(Generic[Part]):
    """A dependency of FastAPI: the part of this type."""

    def __init__(self, kind: type[Part]) -> None:
        self.kind = kind

    def __call__(self, request: Request) -> Part:
        services = request.app.state.services
        assert isinstance(services, Services)
        return services[self.kind]


if TYPE_CHECKING:
    Given = Annotated[Part, None]
else:

    class Given:
        """`registry: Given[Registry]` in a route's signature."""

        def __class_getitem__(cls, kind: type) -> Any:
            return Annotated[kind, Depends(Provided(kind))]
