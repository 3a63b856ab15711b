"""Chat templates of checkpoints, which strangers write: jinja2's sandbox with bounds on time, sizes and numbers.

The sandbox bounds what a template may touch, and `range`, but not loops within loops, `'a' * 10**10` or `9**9**9`, of
which the last holds the interpreter's lock for ever. Here every turn of a loop, every call and every operator that
makes something large is counted. What is left is for a process that can be killed, in which each template is tried
when its model is registered (control.checkpoints.template_program).
"""

import functools
import re
import threading
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, Final

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

LIMIT_S: Final = 2.0  # of the thread's own processor time
MOST_CHARACTERS: Final = 16_000_000
_MOST_BITS: Final = 4096
_LARGEST_NUMBER: Final = 1_000_000
_MOST_NESTED: Final = 1_000_000
_MOST_SLOW: Final = 100_000
_TURNS_A_LOOK: Final = 64
_WIDTH: Final = re.compile(r"%(?:\([^()]*\))?[-+ #0]*[0-9]*\.?[0-9]{6,}|\{[^{}]*:[^{}]*[0-9]{6,}")
_INNER: Final = re.compile(r"\{[^{}]*:[^{}]*\{")
_SLOW: Final = frozenset({"wordwrap", "urlize", "striptags"})
_NESTED: Final = frozenset({"tojson", "string", "pprint", "join", "format", "xmlattr", "urlencode", "list", "sum"})
_WIDTHS: Final = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "truncate"})


class TemplateTooExpensive(SecurityError):
    """A bound was met; the text says which."""


class _Budget(threading.local):
    deadline_s: float | None = None
    ticks = 0

    def tick(self, count: int = 1) -> None:
        self.ticks += count
        if self.ticks >= _TURNS_A_LOOK:
            self.ticks = 0
            if self.deadline_s is not None and time.thread_time() > self.deadline_s:
                raise TemplateTooExpensive(f"the chat template takes longer than {LIMIT_S:g} s")

    @contextmanager
    def spending(self) -> Iterator[None]:
        before, self.deadline_s = self.deadline_s, time.thread_time() + LIMIT_S
        try:
            yield
        finally:
            self.deadline_s = before


_budget = _Budget()


class BoundedTemplate(Template):
    def render(self, *args: Any, **kwargs: Any) -> str:
        """Raises TemplateTooExpensive, and what jinja2 raises."""
        with _budget.spending():
            return super().render(*args, **kwargs)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """In the place of jinja2's own: the same templates, the same text."""

    template_class = BoundedTemplate
    # Nor are these worked out while a template is compiled.
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(lambda parts: "".join(_measured(parts)))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.globals.pop("lipsum", None)
        self.finalize = _finalized
        self.filters = _Filters(self.filters)
        self.filters["_turns"] = _turns
        self.filters["_walked"] = _walked

    def from_string(self, *args: Any, **kwargs: Any) -> Template:
        with _budget.spending():
            return super().from_string(*args, **kwargs)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        for loop in list(source.find_all(nodes.For)):
            loop.iter = _filtered("_turns", loop.iter)
        for concat in list(source.find_all(nodes.Concat)):
            concat.nodes = [_filtered("_walked", part) for part in concat.nodes]
        return super()._generate(source, *args, **kwargs)

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        _budget.tick()
        of_text = getattr(getattr(function, "__wrapped__", function), "__self__", None)  # jinja2 wraps str.format
        if isinstance(of_text, str):
            _check_text_call(function.__name__, of_text, args, kwargs)
        return _sized(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _budget.tick()
        if operator == "**":
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > _MOST_BITS:
                raise TemplateTooExpensive("the chat template makes a number too large")
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, int) and isinstance(other, int) and one.bit_length() > _MOST_BITS:
                    raise TemplateTooExpensive("the chat template makes a number too large")
                if isinstance(one, (str, list, tuple, bytes)) and isinstance(other, int):
                    _check_length(len(one) * max(other, 0))
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
            _check_nested(right)
            if "*" in left:
                raise TemplateTooExpensive("the chat template formats to a width that it works out")
        return _sized(super().call_binop(context, operator, left, right))


class _Filters(dict[str, Callable[..., Any]]):
    """Those that transformers adds afterwards are bounded too."""

    def __init__(self, filters: dict[str, Callable[..., Any]]) -> None:
        super().__init__({name: _bounded_filter(name, function) for name, function in filters.items()})

    def __setitem__(self, name: str, function: Callable[..., Any]) -> None:
        super().__setitem__(name, function if name.startswith("_") else _bounded_filter(name, function))


def _finalized(value: Any) -> Any:
    """Of each value before it becomes text."""
    if not isinstance(value, str):
        _check_nested(value)
    return value


def _filtered(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Turns:
    """An iterable of which each turn is counted."""

    def __init__(self, things: Any) -> None:
        self._things = things

    def __iter__(self) -> Iterator[Any]:
        for thing in self._things:
            _budget.tick()
            yield thing

    def __len__(self) -> int:
        return len(self._things)


@pass_context  # so that jinja2 does not try it while it compiles
def _turns(_: Context, things: Any) -> Any:
    return _Turns(things) if things is not None else things


@pass_context
def _walked(_: Context, value: Any) -> Any:
    _check_nested(value)
    return value


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _budget.tick()
        given = [*args, *kwargs.values()]
        if name in _WIDTHS and any(isinstance(each, int) and each > _LARGEST_NUMBER for each in given):
            raise TemplateTooExpensive(f"the chat template gives {name} a number above {_LARGEST_NUMBER}")
        if name in {"batch", "slice", "tojson", "round"} and any(
            isinstance(each, int) and each > _LARGEST_NUMBER for each in given[1:]
        ):
            raise TemplateTooExpensive(f"the chat template gives {name} a number above {_LARGEST_NUMBER}")
        if name in _NESTED:
            for each in given:
                _check_nested(each)
        texts = [each for each in given if isinstance(each, str)]
        if name == "format" and texts:
            _check_format(texts[0])
            if "*" in texts[0]:
                raise TemplateTooExpensive("the chat template formats to a width that it works out")
        if name == "indent" and texts:
            widest = max(
                (len(e) if isinstance(e, str) else e for e in given[1:] if isinstance(e, (int, str))), default=4
            )
            _check_length(widest * (texts[0].count("\n") + 1))
        if name in _SLOW and texts and len(texts[0]) > _MOST_SLOW:
            raise TemplateTooExpensive(f"the chat template gives {name} more than {_MOST_SLOW} characters")
        if name == "replace" and len(texts) >= 3:
            _check_replace(texts[0], texts[1], texts[2])
        if name == "join" and texts:
            _check_length(
                max(map(len, texts)) * max((len(e) for e in given if isinstance(e, (list, tuple))), default=1)
            )
        return _sized(function(*args, **kwargs))

    return bounded


def _check_text_call(name: str, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = [*args, *kwargs.values()]
    if name in _WIDTHS and any(isinstance(each, int) and each > _LARGEST_NUMBER for each in given):
        raise TemplateTooExpensive(f"the chat template gives {name} a number above {_LARGEST_NUMBER}")
    if name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        _check_replace(text, args[0], args[1])
    elif name == "join" and args and isinstance(args[0], Sized):
        _check_length(len(text) * len(args[0]))
    elif name in {"format", "format_map"}:
        _check_format(text)
        _check_nested(given)
    elif name == "translate":
        raise TemplateTooExpensive("the chat template calls translate")


def _check_replace(text: str, old: str, new: str) -> None:
    _check_length(len(text) + len(new) * (text.count(old) if old else len(text) + 1))


def _check_format(text: str) -> None:
    if _WIDTH.search(text) or _INNER.search(text):
        raise TemplateTooExpensive("the chat template formats to a width of six digits or more")


def _check_length(length: int) -> None:
    if length > MOST_CHARACTERS:
        raise TemplateTooExpensive(f"the chat template makes more than {MOST_CHARACTERS} characters")


def _check_nested(value: Any) -> None:
    """A list that holds another one twice, which does the same, is small and is not when it is written out."""
    total, seen, open_ = 0, 0, [value]
    while open_:
        here = open_.pop()
        seen += 1
        if seen > _MOST_NESTED:
            raise TemplateTooExpensive(f"the chat template makes a value of more than {_MOST_NESTED} parts")
        if isinstance(here, str):
            total += len(here)
        elif isinstance(here, dict):
            open_ += [*here, *here.values()]
        elif isinstance(here, (list, tuple)):
            open_ += here
        _budget.tick()
        _check_length(total)


def _measured(parts: Any) -> Iterator[str]:
    total = 0
    for part in parts:
        total += len(part)
        _budget.tick()
        _check_length(total)
        yield part


def _sized(value: Any) -> Any:
    if isinstance(value, (str, bytes, list, tuple)):
        _check_length(len(value))
    return value
