"""The process of a program under test: loads it and does what the checker asks. Trusted with nothing.

Whatever the program does to its own interpreter, it can do no more than answer the checker's calls, as any program may.
"""

import asyncio
import builtins
import importlib
import io
import operator
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evals.sandbox_values import Channel, Node, Table, Values, own_classes

_CHANNEL_FD = 3
_MOST_PRINTED_BYTES = 1024**2
_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor")


class Candidate(Values):
    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._lock = threading.RLock()  # of the program's threads one at a time may ask back
        self._held: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._borrowed: dict[int, int] = {}
        self._module = types.ModuleType("__main__")
        self._printed = _Printed()
        self._does: dict[str, Callable[..., Any]] = {
            "load": self._load,
            "look": self._look,
            "call": lambda function, values, named: function(*values, **named),
            "get": getattr,
            "set": setattr,
            "del": delattr,
            "item": operator.getitem,
            "setitem": operator.setitem,
            "delitem": operator.delitem,
            "len": len,
            "iter": iter,
            "next": next,
            "bool": bool,
            "str": str,
            "repr": repr,
            "enter": lambda value: type(value).__enter__(value),
            "exit": lambda value: type(value).__exit__(value, None, None, None),
            "isinstance": lambda kind, value: isinstance(value, kind),
            "await": _waited_for,
            **{name: getattr(operator, name) for name in _BINARY},
        }

    def serve(self) -> None:
        """Until the checker is gone."""
        sys.modules["__main__"] = self._module
        sys.stdout = io.TextIOWrapper(self._printed, encoding="utf-8", write_through=True)
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_Asked(self)), encoding="utf-8")
        while (request := self._channel.receive()) is not None:
            self._channel.send(self._answer(request))

    def ask(self, number: int | str, values: Sequence[Any], named: dict[str, Any]) -> Any:
        """Calls what belongs to the checker."""
        with self._lock:
            table = Table()
            self._channel.send({
                "ask": number,
                "values": self.encode(list(values), table),
                "named": self.encode(named, table),
            })  # fmt: skip
            while (said := self._channel.receive()) is not None:
                if "do" in said:
                    self._channel.send(self._answer(said))
                elif "raise" in said:
                    name, text = said["raise"]
                    raise getattr(builtins, name)(text)
                else:
                    return self.decode(said["value"], Table())
            os._exit(0)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        table = Table()
        values = self.decode(request["values"], table)
        known = Table(table.objects)
        before = {number: self.contents(value, known) for number, value in table.objects.items()}
        changes: dict[int, Node] = {}
        try:
            result = self._does[request["do"]](*values)
            answer = {"value": self.encode(result, known)}
        except BaseException as error:  # noqa: BLE001  (whatever it is belongs to the test)
            answer = {"raise": self._raised(error, known)}
        for number, value in table.objects.items():
            after = self.contents(value, known)
            if after != before[number]:
                changes[number] = after
        return answer | {"changes": changes, "printed": self._printed.taken()}

    def _load(self, prelude: str, code: str, whole: str) -> None:
        """The task's own part first; where that is no program by itself, all in one."""
        names = self._module.__dict__
        names["__builtins__"] = builtins
        try:
            ahead = compile(prelude, "<program>", "exec")
        except SyntaxError:
            exec(compile(whole, "<program>", "exec"), names)
            return
        exec(ahead, names)
        self.own = own_classes(names)
        exec(compile(code, "<program>", "exec"), names)

    def _look(self, name: str) -> Any:
        return self._module.__dict__[name]

    def reference(self, value: Any) -> Node:
        if (number := self._borrowed.get(id(value))) is not None:
            return ["given", number]
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, type):
            if value.__module__ == "builtins":
                return ["builtin", value.__qualname__]
            if issubclass(value, BaseException):
                return ["error", *self._lineage(value)]
        module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if isinstance(module, str) and isinstance(name, str) and module != "__main__":
            return ["held", self._hold(value), module, name]
        return ["awaited" if isinstance(value, types.CoroutineType) else "held", self._hold(value)]

    def resolve(self, node: Any) -> Any:
        match node:
            case ["held", number]:
                return self._held[number]
            case ["named_object", module, name]:
                return operator.attrgetter(name)(importlib.import_module(module))
            case ["own_class", name]:
                return self._module.__dict__[name]
            case ["given_iterator", number]:
                return self._iterate(number)
            case ["given", number]:

                def borrowed(*values: Any, **named: Any) -> Any:
                    return self.ask(number, values, named)

                self._borrowed[id(borrowed)] = number
                self._held.append(borrowed)
                return borrowed
        raise TypeError(f"no value: {node!r}"[:200])

    def _iterate(self, number: int) -> Iterator[Any]:
        while True:
            try:
                item = self.ask(number, (), {})
            except StopIteration:
                return
            yield item

    def _raised(self, error: BaseException, table: Table) -> dict[str, Any]:
        chain, base = self._lineage(type(error))
        told = {"chain": chain, "base": base, "text": _text(error)}
        try:
            return told | {"args": self.encode(list(error.args), table), "state": self.encode(vars(error), table)}
        except BaseException:  # noqa: BLE001  (its arguments are the program's own objects)
            return told | {"args": [_text(error)], "state": None}

    def _lineage(self, kind: type[BaseException]) -> tuple[list[list[Any]], str]:
        """Its classes down to one of Python's, and that one's name."""
        chain: list[list[Any]] = []
        for ancestor in kind.__mro__:
            if ancestor.__module__ == "builtins":
                return chain, ancestor.__name__
            chain.append([self._hold(ancestor), ancestor.__name__])
        return chain, "Exception"

    def _hold(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._held)
            self._held.append(value)
        return number


class _Printed(io.BytesIO):
    """What the program prints, up to a limit, until it is taken."""

    def write(self, data: Any) -> int:
        if self.tell() < _MOST_PRINTED_BYTES:
            super().write(data)
        return len(data)

    def close(self) -> None:
        pass

    def taken(self) -> str:
        text = self.getvalue().decode("utf-8", "replace")
        self.seek(0)
        self.truncate()
        return text


class _Asked(io.RawIOBase):
    """Standard input: lines of what the test gives."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        if not self._left:
            self._left = str(self._candidate.ask("stdin", (), {})).encode()
        count = min(len(into), len(self._left))
        into[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _waited_for(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:2000]
    except BaseException:  # noqa: BLE001  (its `__str__` is the program's)
        return ""


def main() -> None:
    quiet = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(quiet, number)
    sys.path.pop(0)
    Candidate(Channel(_CHANNEL_FD)).serve()
    os._exit(0)
