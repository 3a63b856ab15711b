"""Jinja2 templates of strangers: what they can do is listed, and how long they may take is bounded.

Allowed: names, fields and items of the row, conditions, comparisons, concatenation, a list of filters and tests, and
`for` over a list in the row. Not allowed: calls, assignments, macros, imports, arithmetic, names that begin with `_`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_CHARACTERS: Final = 200_000
MOST_TURNS: Final = 10_000
_DEEPEST_FOR: Final = 2
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


class TemplateFailed(Exception):
    """Its text is for whoever wrote the template."""


class PromptTemplate:
    def __init__(self, text: str) -> None:
        """Raises TemplateFailed when it does not compile or does what is not allowed, naming the line."""
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
        )
        environment.globals.clear()
        environment.filters |= {"replace": _replace, "join": _join}
        environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "sort_keys": False}
        try:
            _check(environment.parse(text))
            self._template = environment.from_string(text)
        except (TemplateError, RecursionError, OverflowError) as error:
            line = getattr(error, "lineno", None)
            raise TemplateFailed(f"{f'line {line}: ' if line else ''}{error}") from error

    def render(self, names: Mapping[str, Any]) -> str:
        """Raises TemplateFailed: a name that is not there, too long, too many turns of a loop."""
        budget = _Budget()
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate(_bounded(names, budget)):
                length += len(part)
                if length > MOST_CHARACTERS:
                    raise TemplateFailed(f"makes more than {MOST_CHARACTERS} characters")
                parts.append(part)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise TemplateFailed(str(error) or type(error).__name__) from error
        return "".join(parts)


class _Budget:
    def __init__(self) -> None:
        self._left = MOST_TURNS

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TemplateFailed(f"its loops turn more than {MOST_TURNS} times")


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
