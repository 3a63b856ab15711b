"""The process that decides: it holds the tests, runs them in an interpreter that the program never enters, and writes
the verdict to a pipe that the program has not.

    stdin   {"prelude", "code", "whole", "tests", "names"}
    fd 3    `passed`, or why not; nothing where the program ended first

The tests see the program's functions as stand-ins. What they return arrives as plain values (evals.sandbox_values), so
that every comparison with an expected value is Python's own. A comparison with one of the program's own objects is
refused, since only the program could make it.
"""

import ast
import builtins
import functools
import importlib
import json
import operator
import os
import sys
import threading
import types
from typing import Any

from evals.sandbox_values import Channel, Node, Table, Unreadable, Values, own_classes

_RESULT_FD = 3
_CHANNEL_FD = 4
_READ_NAMES = frozenset(("__name__", "__doc__", "__qualname__", "__wrapped__", "__annotations__", "__dict__"))
# Of the modules that tests use because the program imported them: none has an object that is equal to everything.
_MODULES = frozenset((
    "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "itertools",
    "json", "math", "operator", "random", "re", "statistics", "string", "sys", "time", "typing",
))  # fmt: skip


class Refused(BaseException):
    """A test that cannot be decided here, or a program that does not keep to the rules: it fails whatever comes."""


class ProgramEnded(Refused):
    pass


class Checker(Values):
    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._lock = threading.RLock()
        self._given: list[Any] = []
        self._errors: dict[int, type[BaseException]] = {}
        self.refused: Refused | None = None

    def do(self, what: str, *values: Any) -> Any:
        """Has the program do something. Raises what it raises, and Refused."""
        with self._lock:
            if self.refused is not None:
                raise self.refused
            table = Table()
            nodes = self.encode(list(values), table)
            try:
                self._channel.send({"do": what, "values": nodes})
                while "ask" in (said := self._received()):
                    self._channel.send(self._called_back(said))
            except OSError as error:
                raise self.refuse("", ProgramEnded) from error
            return self._result(said, table)

    def refuse(self, why: str, kind: type[Refused] = Refused) -> Refused:
        """To be raised; the first one is the verdict, also where a test catches it."""
        if self.refused is None:
            self.refused = kind(why)
        return self.refused

    def _received(self) -> dict[str, Any]:
        try:
            said = self._channel.receive()
        except Unreadable as error:
            raise self.refuse("it spoke out of turn before its tests had passed") from error
        if said is None:
            raise self.refuse("", ProgramEnded)
        return said

    def _result(self, said: dict[str, Any], sent: Table) -> Any:
        table = Table(sent.objects)
        try:
            error = self._error(said["raise"], table) if "raise" in said else None
            value = None if error is not None else self.decode(said["value"], table)
            for number, contents in said["changes"].items():
                self.fill(sent.objects[int(number)], contents, table)
            printed = str(said["printed"])
        except (Unreadable, LookupError, TypeError, ValueError, AttributeError, RecursionError, ArithmeticError) as why:
            raise self.refuse("it spoke out of turn before its tests had passed") from why
        if printed and sys.stdout is not sys.__stdout__:
            sys.stdout.write(printed)
        if error is not None:
            raise error
        return value

    def _called_back(self, said: dict[str, Any]) -> dict[str, Any]:
        """The program called a function that a test gave it."""
        table = Table()
        try:
            values, named = self.decode(said["values"], table), self.decode(said["named"], table)
            function = _next_line if said["ask"] == "stdin" else self._given[said["ask"]]
        except (Unreadable, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise self.refuse("it spoke out of turn before its tests had passed") from error
        try:
            return {"value": self.encode(function(*values, **named), Table())}
        except Exception as error:  # noqa: BLE001  (whatever it is goes to who called)
            kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
            return {"raise": [kind.__name__, str(error)[:2000]]}

    def reference(self, value: Any) -> Node:
        if isinstance(value, StandIn):
            return ["held", object.__getattribute__(value, "_number")]
        module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if isinstance(module, str) and isinstance(name, str):
            if isinstance(value, type) and self.own.get(name) is value:
                return ["own_class", name]
            if _found(module, name) is value:
                return ["named_object", module, name]
        if callable(value):
            self._given.append(value)
            return ["given", len(self._given) - 1]
        if hasattr(value, "__next__"):
            return ["given_iterator", *self.reference(functools.partial(next, value))[1:]]
        raise self.refuse(
            f"a test gives the program an object of {type(value).__qualname__}, which cannot be passed on"
        )

    def resolve(self, node: Any) -> Any:
        match node:
            case ["held", int(number), *_]:
                return StandIn(self, number)
            case ["awaited", int(number)]:
                return _awaited(StandIn(self, number))
            case ["given", int(number)]:
                return self._given[number]
            case ["builtin", str(name)] if isinstance(kind := getattr(builtins, name, None), type):
                return kind
            case ["error", list(chain), str(base)]:
                return self._error_class(chain, base)
            case ["module", str(name)]:
                return _module(name)
        raise Unreadable("no value")

    def look(self, name: str, *, own: bool) -> Any:
        """What the program calls so; `own`: it is what is tested, so it is the program's whatever it is.

        Raises LookupError.
        """
        with self._lock:
            self._channel.send({"do": "look", "values": self.encode([name], Table())})
            said = self._received()
        if "raise" in said:
            raise LookupError(name)
        match said.get("value"):
            case ["module", str(module)]:
                return _module(module)
            case ["held", int(_), str(module), str(qualified)] if not own:
                if module in _MODULES and (found := _found(module, qualified)) is not None:
                    return found
                if module == "builtins":
                    return getattr(builtins, qualified)
        return self._result(said, Table())

    def _error(self, told: dict[str, Any], table: Table) -> BaseException:
        kind = self._error_class(told["chain"], str(told["base"]))
        values = self.decode(told["args"], table)
        if not told["chain"]:
            try:
                return kind(*values)
            except Exception:  # noqa: BLE001  (some take other arguments than they have)
                return type(kind.__name__, (Exception,), {})(str(told["text"]))
        error = kind.__new__(kind)
        error.args = tuple(values)
        error.__dict__.update(self.decode(told["state"], table) or {})
        return error

    def _error_class(self, chain: list[Any], base: str) -> type[BaseException]:
        kind = getattr(builtins, base, Exception)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise Unreadable("no exception")
        for number, name in reversed(chain):
            own = self.own.get(name)
            if own is not None and issubclass(own, BaseException):
                kind = own
            else:
                kind = self._errors.setdefault(int(number), type(str(name), (kind,), {}))
        return kind


class StandIn:
    """For an object of the program. What is asked of it the program answers, but never how it compares."""

    __slots__ = ("_checker", "_number")

    def __init__(self, checker: Checker, number: int) -> None:
        object.__setattr__(self, "_checker", checker)
        object.__setattr__(self, "_number", number)

    def __call__(self, *values: Any, **named: Any) -> Any:
        return _do(self, "call", values, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _READ_NAMES:
            raise AttributeError(name)
        return _do(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _do(self, "set", name, value)

    def __delattr__(self, name: str) -> None:
        _do(self, "del", name)

    def __getitem__(self, key: Any) -> Any:
        return _do(self, "item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _do(self, "setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        _do(self, "delitem", key)

    def __len__(self) -> int:
        return int(_do(self, "len"))

    def __iter__(self) -> Any:
        return _do(self, "iter")

    def __next__(self) -> Any:
        return _do(self, "next")

    def __bool__(self) -> bool:
        return bool(_do(self, "bool"))

    def __str__(self) -> str:
        return str(_do(self, "str"))

    def __repr__(self) -> str:
        return str(_do(self, "repr"))

    def __enter__(self) -> Any:
        return _do(self, "enter")

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        _do(self, "exit")

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, StandIn) and bool(_do(self, "isinstance", value))

    def __eq__(self, other: object) -> bool:
        raise _incomparable(self)

    def __lt__(self, other: object) -> bool:
        raise _incomparable(self)

    __ne__ = __le__ = __gt__ = __ge__ = __lt__
    __hash__ = object.__hash__


def _do(stand_in: StandIn, what: str, *values: Any) -> Any:
    checker: Checker = object.__getattribute__(stand_in, "_checker")
    return checker.do(what, stand_in, *values)


def _incomparable(stand_in: StandIn) -> Refused:
    checker: Checker = object.__getattribute__(stand_in, "_checker")
    return checker.refuse(
        "a test compares an object of the program's own, which only the program could decide: compare plain values,"
        " or define its class in the task"
    )


def _operator(name: str) -> Any:
    def forward(self: StandIn, other: Any) -> Any:
        """Between two of the program's objects; with a plain one it could answer anything to what is expected."""
        if not isinstance(other, StandIn):
            raise _incomparable(self)
        return _do(self, name, other)

    def backward(self: StandIn, other: Any) -> Any:  # noqa: ARG001 - Python's signature
        raise _incomparable(self)

    return forward, backward


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    _forward, _backward = _operator(f"{_name}_" if _name in {"and", "or"} else _name)
    setattr(StandIn, f"__{_name}__", _forward)
    setattr(StandIn, f"__r{_name}__", _backward)


def _module(name: str) -> types.ModuleType:
    """The real one. Raises LookupError for what tests may not have from the program."""
    if name.partition(".")[0] not in _MODULES:
        raise LookupError(name)
    return importlib.import_module(name)


def _found(module: str, name: str) -> Any:
    """An object of Python's library by its name; None where there is none."""
    if module.partition(".")[0] not in sys.stdlib_module_names or module == "__main__":
        return None
    try:
        return operator.attrgetter(name)(importlib.import_module(module))
    except (AttributeError, ImportError):
        return None


async def _awaited(stand_in: StandIn) -> Any:
    return _do(stand_in, "await")


def _next_line() -> str:
    return "" if sys.stdin is sys.__stdin__ else sys.stdin.readline()


def _wanted(tests: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tests) if isinstance(node, ast.Name)}


def run(checker: Checker, task: dict[str, Any]) -> None:
    """Raises what a failing program raises."""
    checker.do("load", task["prelude"], task["code"], task["whole"])
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    names = module.__dict__
    try:
        ahead = compile(task["prelude"], "<task>", "exec")
    except SyntaxError:
        pass
    else:
        exec(ahead, names)
        checker.own = own_classes(names)
    tests = ast.parse(task["tests"], "<tests>")
    tested = set(task["names"])
    for name in sorted(_wanted(tests) | tested):
        if name in tested or not (name in names or hasattr(builtins, name)):
            try:
                names[name] = checker.look(name, own=name in tested)
            except LookupError:
                pass
    exec(compile(tests, "<tests>", "exec"), names)


def main() -> None:
    task = json.loads(sys.stdin.buffer.read())
    sys.path.pop(0)
    checker = Checker(Channel(_CHANNEL_FD))
    try:
        run(checker, task)
    except BaseException as error:  # noqa: BLE001  (whatever ends the tests before their end)
        said = f"{type(error).__name__}: {error}"[:500]
    else:
        said = "passed"
    if checker.refused is not None:
        said = "" if isinstance(checker.refused, ProgramEnded) else str(checker.refused)
    os.write(_RESULT_FD, said.encode("utf-8", "replace"))
    os._exit(0)
