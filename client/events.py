"""Server-sent events, line by line."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class EventReader:
    """`feed` takes a line and gives an event once it is whole: its name ("" where it has none) and its data."""

    _name: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, line: str) -> tuple[str, str] | None:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._name = value
            elif name == "data":
                self._data.append(value)
            return None
        event = (self._name, "\n".join(self._data)) if self._data else None
        self._name, self._data = "", []
        return event
