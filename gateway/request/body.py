"""A request's JSON body: the bytes as they came, but for a byte order mark, taken apart once into the members of its
object.
"""

from collections.abc import Mapping

import msgspec

from stepserve.unreadable_json import BOM

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NOTHING: Mapping[str, msgspec.Raw] = {}


class RequestBody:
    """`members` are not decoded themselves: whoever needs one decodes that one. Not safe for two threads at a time."""

    __slots__ = ("_members", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw.removeprefix(BOM)
        self._members: Mapping[str, msgspec.Raw] | None = None

    @property
    def is_object(self) -> bool:
        """Whether it is a JSON object at all, and none so deep that it cannot be read."""
        return self.members is not _NOTHING

    @property
    def members(self) -> Mapping[str, msgspec.Raw]:
        """Empty where the body is no JSON object, which is for others to say. Blocks for about a ms a MB at first."""
        if self._members is None:
            try:
                self._members = _members.decode(self.raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._members = _NOTHING
        return self._members

    @property
    def model(self) -> str | None:
        """The model that it names; None where it names none."""
        name = self.value("model")
        return name if isinstance(name, str) else None

    def value(self, name: str) -> object:
        """A member decoded; None where there is none, or none that can be read."""
        raw = self.members.get(name)
        return None if raw is None else decoded(raw)

    def text_of(self, name: str) -> bytes:
        """A member's JSON as it stands in the body; empty where there is none."""
        return bytes(self.members.get(name, b""))


def decoded(raw: bytes | msgspec.Raw) -> object:
    """Some JSON's value; None for what is no JSON."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
