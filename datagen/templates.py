"""Jinja2 templates of strangers: what they can do is listed, and how much they may do is bounded.

Allowed: names, fields and items of the row, conditions, comparisons, concatenation, a list of filters and tests, and
`for` over a list in the row. Not allowed: calls, assignments, macros, imports, arithmetic, names that begin with `_`.

The bounds say what is wrong with a template early; what they miss is cut off by the deadline of the process that it is
filled in (datagen.rendering).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateError, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_CHARACTERS: Final = 200_000
MOST_TURNS: Final = 10_000
MOST_FILTERED: Final = 50_000_000  # characters that all filters of one prompt read; a number counts as eight
_DEEPEST_FOR: Final = 2
_BUDGET: Final = "_budget"  # no template can read a name that begins so
_FILTERS: Final = frozenset((
    "capitalize", "default", "d", "escape", "e", "first", "int", "float", "join", "last", "length", "count",
    "lower", "replace", "reverse", "round", "sort", "string", "title", "tojson", "trim", "truncate", "unique",
    "upper", "wordcount", "abs", "list",
))  # fmt: skip
_TESTS: Final = frozenset((
    "defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence",
    "true", "false", "even", "odd", "in", "eq", "ne", "lt", "le", "gt", "ge", "equalto", "sameas",
))  # fmt: skip
_NODES: Final = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.NSRef, nodes.Getattr, nodes.Getitem,
    nodes.Const, nodes.List, nodes.Tuple, nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or,
    nodes.Not, nodes.Neg, nodes.Filter, nodes.Test, nodes.For, nodes.Concat, nodes.Slice, nodes.Keyword,
)  # fmt: skip


# A number of 5,000 digits is a ValueError.
_UNREADABLE: Final = (TemplateError, RecursionError, OverflowError, ValueError)


class TemplateFailed(Exception):
    """Its text is for whoever wrote the template."""


class PromptTemplate:
    def __init__(self, text: str) -> None:
        """Raises TemplateFailed when it does not compile or does what is not allowed, naming the line."""
        environment = _environment()
        plain = {**environment.filters, "replace": _replace, "join": _join}
        environment.filters = {
            **{_plain(name): plain[name] for name in _FILTERS},
            **{name: _charged(_plain(name)) for name in _FILTERS},
        }
        environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "sort_keys": False}
        try:
            _check(environment.parse(text))
            self._template = environment.from_string(text)
        except _UNREADABLE as error:
            raise _failed(error) from error

    def render(self, names: Mapping[str, Any]) -> str:
        """Raises TemplateFailed: a name that is not there, too long, too many turns of a loop."""
        budget = _Budget()
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate({**_bounded(names, budget), _BUDGET: budget}):
                length += len(part)
                if length > MOST_CHARACTERS:
                    raise TemplateFailed(f"makes more than {MOST_CHARACTERS} characters")
                parts.append(part)
        except (
            TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError,
        ) as error:  # fmt: skip
            raise TemplateFailed(str(error) or type(error).__name__) from error
        return "".join(parts)


def names_read(text: str) -> list[str]:
    """The names that a template takes from its row, each once. Evaluates nothing.

    Raises TemplateFailed as PromptTemplate does, but for what shows only when it is compiled.
    """
    try:
        tree = _environment().parse(text)
        _check(tree)
        return list(dict.fromkeys(_names(tree, frozenset())))
    except _UNREADABLE as error:
        raise _failed(error) from error


def _names(node: nodes.Node, bound: frozenset[str]) -> Iterator[str]:
    """`bound`: the variables of the loops around it."""
    match node:
        case nodes.Name(name=name):
            if name not in bound:
                yield name
        case nodes.For():
            yield from _names(node.iter, bound)
            targets = [node.target] if isinstance(node.target, nodes.Name) else node.target.find_all(nodes.Name)
            inside = bound | {target.name for target in targets} | {"loop"}
            for child in (*node.body, *([] if node.test is None else [node.test])):
                yield from _names(child, inside)
            for child in node.else_:
                yield from _names(child, bound)
        case _:
            for child in node.iter_child_nodes():
                yield from _names(child, bound)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    environment.globals.clear()
    return environment


def _failed(error: Exception) -> TemplateFailed:
    line = getattr(error, "lineno", None)
    return TemplateFailed(f"{f'line {line}: ' if line else ''}{error}")


class _Budget:
    def __init__(self) -> None:
        self._left = MOST_TURNS
        self._unread = MOST_FILTERED

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TemplateFailed(f"its loops turn more than {MOST_TURNS} times")

    def read(self, values: Any) -> None:
        """Charges for everything inside of `values`; looks no further than the budget goes."""
        waiting = [values]
        while waiting:
            value = waiting.pop()
            self._unread -= len(value) + 1 if isinstance(value, str) else 8
            if self._unread < 0:
                raise TemplateFailed(f"its filters read more than {MOST_FILTERED} characters")
            if isinstance(value, Mapping):
                waiting += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple):
                waiting += list.__iter__(value) if isinstance(value, list) else value


class _BoundedList(list[Any]):
    """A list whose every step costs."""

    budget: _Budget

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            self.budget.spend()
            yield item


class _BoundedText(str):
    """The same of text: a loop over its characters."""

    __slots__ = ("budget",)
    budget: _Budget

    def __iter__(self) -> Iterator[str]:
        for character in super().__iter__():
            self.budget.spend()
            yield character


def _plain(name: str) -> str:
    """Of a filter by itself, a name that no template can spell."""
    return f"plain {name}"


def _charged(name: str) -> Callable[..., Any]:
    """The filter of that name, paid for by the length of what it is given."""

    @pass_context
    def charged(context: Context, *values: Any, **named: Any) -> Any:
        context[_BUDGET].read([values, named])
        value, *more = values
        return context.environment.call_filter(name, value, more, named, context, context.eval_ctx)

    return charged


def _replace(text: Any, old: Any, new: Any) -> str:
    text, old, new = str(text), str(old), str(new)
    if len(text) + (text.count(old) * len(new)) > MOST_CHARACTERS:
        raise TemplateFailed(f"replace makes more than {MOST_CHARACTERS} characters")
    return str(text.replace(old, new))


def _join(items: Any, between: Any = "") -> str:
    texts, between = [str(item) for item in items], str(between)
    if sum(map(len, texts)) + len(texts) * len(between) > MOST_CHARACTERS:
        raise TemplateFailed(f"join makes more than {MOST_CHARACTERS} characters")
    return str(between.join(texts))


def _bounded(value: Any, budget: _Budget) -> Any:
    if isinstance(value, str):
        text = _BoundedText(value)
        text.budget = budget
        return text
    if isinstance(value, Mapping):
        return {key: _bounded(item, budget) for key, item in value.items()}
    if isinstance(value, list):
        bounded = _BoundedList(_bounded(item, budget) for item in value)
        bounded.budget = budget
        return bounded
    return value


def _check(tree: nodes.Template) -> None:
    _check_node(tree, 0)


def _check_node(node: nodes.Node, depth: int) -> None:
    if not isinstance(node, _NODES):
        raise TemplateFailed(f"line {node.lineno}: {type(node).__name__.lower()} is not allowed in a prompt template")
    match node:
        case nodes.Getattr(attr=attribute) if attribute.startswith("_"):
            raise TemplateFailed(f"line {node.lineno}: {attribute!r} must not be read")
        case nodes.Getitem(arg=nodes.Const(value=str(item))) if item.startswith("_"):
            raise TemplateFailed(f"line {node.lineno}: {item!r} must not be read")
        case nodes.Name(name=name) if name.startswith("_"):
            raise TemplateFailed(f"line {node.lineno}: {name!r} must not be read")
        case nodes.Filter(name=name) if name not in _FILTERS:
            raise TemplateFailed(
                f"line {node.lineno}: there is no filter {name!r}; known are {', '.join(sorted(_FILTERS))}"
            )
        case nodes.Test(name=name) if name not in _TESTS:
            raise TemplateFailed(f"line {node.lineno}: there is no test {name!r}")
        case nodes.For():
            if depth == _DEEPEST_FOR:
                raise TemplateFailed(f"line {node.lineno}: loops inside loops inside loops are not allowed")
            if node.recursive or not _is_path(node.iter):
                raise TemplateFailed(f"line {node.lineno}: for goes over a list of the row alone")
            depth += 1
    for child in node.iter_child_nodes():
        _check_node(child, depth)


def _is_path(node: nodes.Node) -> bool:
    """A name, or a field of a field … of a name."""
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        node = node.node
    return isinstance(node, nodes.Name)
