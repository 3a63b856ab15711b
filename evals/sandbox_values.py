"""How values pass between a program under test and the process that checks it: plain data as data, all else by number.

Both ends run this inside the sandbox, on Python's library alone. What is decoded is made of Python's own types, of the
task's own classes, or stands for something that stays at the other end: no code of the other end ever runs at this one.

A node is a JSON scalar, or a list that begins with a tag; containers that can change have numbers, so that one that is
there twice stays one, and so that changes can be told.
"""

import collections
import datetime
import decimal
import enum
import fractions
import json
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

Node = Any

_RAW = frozenset((type(None), bool, float, str))
_FLAT = _RAW | {int}
_BIG = 10**4000  # json takes integers of up to 4,300 digits
_LONGEST_MESSAGE_BYTES = 256 * 1024**2
_CHANGING: dict[type, str] = {
    list: "list", dict: "dict", set: "set", bytearray: "bytearray", collections.OrderedDict: "ordered",
    collections.Counter: "counter", collections.deque: "deque", collections.defaultdict: "default",
}  # fmt: skip
_MADE: dict[str, Callable[[Any], Any]] = {
    "list": lambda _: [], "dict": lambda _: {}, "set": lambda _: set(), "bytearray": lambda _: bytearray(),
    "ordered": lambda _: collections.OrderedDict(), "counter": lambda _: collections.Counter(),
    "deque": lambda most: collections.deque(maxlen=most), "default": collections.defaultdict,
}  # fmt: skip
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.items()))
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__), (int, int.__int__), (float, float.__float__), (complex, lambda v: complex(v.real, v.imag)),
    (tuple, lambda v: tuple(tuple.__iter__(v))), (list, lambda v: list(list.__iter__(v))),
    (dict, lambda v: dict(dict.items(v))), (set, lambda v: set(set.__iter__(v))),
    (frozenset, lambda v: frozenset(frozenset.__iter__(v))),
)  # fmt: skip
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "decimal": decimal.Decimal, "fraction": fractions.Fraction, "date": datetime.date.fromisoformat,
    "datetime": datetime.datetime.fromisoformat, "time": datetime.time.fromisoformat,
    "int": lambda text: int(text, 16), "bytes": bytes.fromhex,
}  # fmt: skip
_TO_TEXT: dict[type, tuple[str, Callable[[Any], str]]] = {
    decimal.Decimal: ("decimal", str), fractions.Fraction: ("fraction", str),
    datetime.date: ("date", datetime.date.isoformat), datetime.datetime: ("datetime", datetime.datetime.isoformat),
    datetime.time: ("time", datetime.time.isoformat), bytes: ("bytes", bytes.hex),
}  # fmt: skip


class Unreadable(Exception):
    """What came is no message of the other end's harness."""


class Table:
    """The containers of one message by number, those of the message before it included."""

    def __init__(self, known: dict[int, Any] | None = None) -> None:
        self.objects: dict[int, Any] = dict(known or {})
        self._numbers = {id(value): number for number, value in self.objects.items()}

    def number_of(self, value: Any) -> int | None:
        return self._numbers.get(id(value))

    def add(self, value: Any) -> int:
        number = len(self.objects)
        self.objects[number] = value
        self._numbers[id(value)] = number
        return number


class Values:
    """One end. `own`: the task's own classes by name, which both ends have."""

    def __init__(self) -> None:
        self.own: dict[str, type] = {}

    def reference(self, value: Any) -> Node:
        """A node for what is no plain value."""
        raise NotImplementedError

    def resolve(self, node: Any) -> Any:
        """What such a node stands for."""
        raise NotImplementedError

    def encode(self, value: Any, table: Table) -> Node:  # noqa: PLR0911 - a kind of value each
        kind = type(value)
        if kind in _RAW:
            return value
        if kind is int:
            return value if -_BIG < value < _BIG else ["text", "int", hex(value)]
        if (known := table.number_of(value)) is not None:
            return ["again", known]
        if (tag := _CHANGING.get(kind)) is not None:
            extra = value.maxlen if tag == "deque" else None
            if tag == "default" and value.default_factory is not None:
                extra = self.encode(value.default_factory, table)
            number = table.add(value)
            return [tag, number, extra, self.contents(value, table)]
        if kind is tuple:
            return ["tuple", self._items(value, table)]
        if kind is frozenset:
            return ["frozenset", self._items(value, table)]
        if (text := _TO_TEXT.get(kind)) is not None:
            return ["text", text[0], text[1](value)]
        if kind is complex:
            return ["complex", value.real, value.imag]
        if kind is range:
            return ["range", *(self.encode(part, table) for part in (value.start, value.stop, value.step))]
        if kind is datetime.timedelta:
            return ["timedelta", value.days, value.seconds, value.microseconds]
        if value is ... or value is NotImplemented:
            return ["single", repr(value)]
        return self._other(value, kind, table)

    def _other(self, value: Any, kind: type, table: Table) -> Node:
        name = kind.__qualname__
        if kind.__module__ == "__main__" and name in self.own:
            if isinstance(value, enum.Enum):
                return ["member", name, value.name]
            if not isinstance(value, tuple(base for base, _ in _BASES)):
                number = table.add(value)
                return ["own", number, name, self.contents(value, table)]
        fields = getattr(kind, "_fields", None)
        if isinstance(value, tuple) and isinstance(fields, tuple):
            return ["named", name, list(fields), self._items(value, table)]
        for base, plain in _BASES:
            if isinstance(value, base):
                return self.encode(plain(value), table)
        if kind in _VIEWS:
            return self.encode(set(value), table)
        return self.reference(value)

    def contents(self, value: Any, table: Table) -> Node:
        """Of a container that can change."""
        if isinstance(value, dict):
            return [[self.encode(key, table), self.encode(item, table)] for key, item in value.items()]
        if isinstance(value, bytearray):
            return value.hex()
        if type(value) in _CHANGING:
            return self._items(value, table)
        return [[name, self.encode(item, table)] for name, item in _state(value)]

    def _items(self, items: Iterable[Any], table: Table) -> Node:
        items = list(items)
        kinds = set(map(type, items))
        if kinds <= _RAW or (kinds <= _FLAT and all(-_BIG < item < _BIG for item in items if type(item) is int)):
            return items
        return [self.encode(item, table) for item in items]

    def decode(self, node: Node, table: Table) -> Any:  # noqa: PLR0911, PLR0912 - likewise
        """Raises Unreadable, and what Python raises for values that do not fit together."""
        if not isinstance(node, list):
            if isinstance(node, dict):
                raise Unreadable("an object where a value should be")
            return node
        tag, *rest = node
        if tag in _MADE:
            number, extra, contents = rest
            made = _MADE[tag](self.decode(extra, table))
            table.objects[number] = made
            self.fill(made, contents, table)
            return made
        match tag:
            case "again":
                return table.objects[rest[0]]
            case "tuple":
                return tuple(self._decoded(rest[0], table))
            case "frozenset":
                return frozenset(self._decoded(rest[0], table))
            case "text":
                return _FROM_TEXT[rest[0]](rest[1])
            case "complex":
                return complex(*rest)
            case "range":
                return range(*(self.decode(part, table) for part in rest))
            case "timedelta":
                return datetime.timedelta(*rest)
            case "single":
                return ... if rest[0] == "Ellipsis" else NotImplemented
            case "member":
                return self.own[rest[0]][rest[1]]  # type: ignore[index]  # an Enum's
            case "named":
                name, fields, items = rest
                return collections.namedtuple(str(name), fields)(*self._decoded(items, table))  # noqa: PYI024
            case "own":
                number, name, contents = rest
                instance: Any = object.__new__(self.own[name])
                table.objects[number] = instance
                self.fill(instance, contents, table)
                return instance
        return self.resolve(node)

    def fill(self, container: Any, contents: Node, table: Table) -> None:
        """In place of what is in it."""
        if isinstance(container, dict):
            pairs = [(self.decode(key, table), self.decode(item, table)) for key, item in contents]
            container.clear()
            for key, item in pairs:
                container[key] = item
        elif isinstance(container, bytearray):
            container[:] = bytes.fromhex(contents)
        elif type(container) in _CHANGING:
            items = self._decoded(contents, table)
            container.clear()
            if isinstance(container, set):
                container.update(items)
            else:
                container.extend(items)
        else:
            state = {str(name): self.decode(item, table) for name, item in contents}
            if any(name.startswith("__") for name in state):
                raise Unreadable("an attribute that no task has")
            if hasattr(container, "__dict__"):
                container.__dict__.clear()
            for name, item in state.items():
                object.__setattr__(container, name, item)

    def _decoded(self, nodes: Node, table: Table) -> list[Any]:
        return [self.decode(node, table) for node in nodes] if list in set(map(type, nodes)) else list(nodes)


class Channel:
    """Messages over a socket."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def send(self, message: dict[str, Any]) -> None:
        """Raises OSError when the other end is gone."""
        data = json.dumps(message).encode()
        self._socket.sendall(struct.pack("!I", len(data)) + data)

    def receive(self) -> dict[str, Any] | None:
        """None at the end. Raises Unreadable."""
        head = self._read(4)
        if head is None:
            return None
        (length,) = struct.unpack("!I", head)
        if length > _LONGEST_MESSAGE_BYTES:
            raise Unreadable("too long")
        data = self._read(length)
        if data is None:
            return None
        try:
            message = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Unreadable(str(error)) from error
        if not isinstance(message, dict):
            raise Unreadable("no object")
        return message

    def _read(self, length: int) -> bytes | None:
        data = bytearray()
        while len(data) < length:
            try:
                part = self._socket.recv(min(length - len(data), 1 << 20))
            except ConnectionError:
                return None
            if not part:
                return None
            data += part
        return bytes(data)


def own_classes(names: dict[str, Any]) -> dict[str, type]:
    """Those that a task's own code defined in this namespace."""
    return {name: value for name, value in names.items() if isinstance(value, type) and value.__module__ == "__main__"}


def _state(value: Any) -> list[tuple[str, Any]]:
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(value, name):
                found[name] = getattr(value, name)
    return list(found.items())
