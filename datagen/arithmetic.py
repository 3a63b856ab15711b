"""Questions that are nothing but an expression: their answer is worked out here, exactly, not believed."""

import re
from fractions import Fraction
from typing import Final

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_EXPRESSION = re.compile(rf"[-(\s]*{_NUMBER}(?:[\s()]*[-+*/×÷−][\s()]*{_NUMBER})+[\s)]*")
_TOKEN = re.compile(rf"\s*({_NUMBER}|[-+*/()])")
_SAME = str.maketrans({"×": "*", "÷": "/", "−": "-"})
_LONGEST = 200
_LONGEST_QUESTION = 1000
_ASKING: Final = frozenset((
    "what", "whats", "what's", "is", "are", "compute", "calculate", "evaluate", "find", "simplify", "solve",
    "please", "tell", "me", "the", "value", "result", "answer", "of", "to", "how", "much", "does", "equal",
    "equals", "work", "out", "give", "expression", "following",
))  # fmt: skip


class _NoExpression(Exception):
    pass


def exact_answer(question: str) -> str | None:
    """The value of the one expression that the question asks for; None when it asks for anything else.

    Whole numbers as such, others as decimals where those end, else as a fraction in lowest terms.
    """
    if len(question) > _LONGEST_QUESTION:  # finding takes the square of the length
        return None
    found = _EXPRESSION.findall(question)
    if len(found) != 1 or len(found[0]) > _LONGEST:
        return None
    rest = question.replace(found[0], " ")
    if any(word not in _ASKING for word in re.findall(r"[^\W_][^\W_']*(?:'[a-z])?", rest.casefold())):
        return None
    if re.search(r"[^\s\w?.!,:=']", rest):
        return None
    value = value_of(found[0])
    return None if value is None else _written(value)


def value_of(expression: str) -> Fraction | None:
    """None where it is anything but numbers, operators and brackets in their places, or too long."""
    if len(expression) > _LONGEST:
        return None
    try:
        return _value(expression.translate(_SAME))
    except (_NoExpression, ZeroDivisionError):
        return None


def _value(expression: str) -> Fraction:
    tokens = _TOKEN.findall(expression)
    if "".join(tokens) != "".join(expression.split()):
        raise _NoExpression
    tokens.reverse()  # the next one is the last
    value = _sum(tokens)
    if tokens:
        raise _NoExpression
    return value


def _sum(tokens: list[str]) -> Fraction:
    value = _product(tokens)
    while tokens and tokens[-1] in "+-":
        value = value + _product(tokens) if tokens.pop() == "+" else value - _product(tokens)
    return value


def _product(tokens: list[str]) -> Fraction:
    value = _factor(tokens)
    while tokens and tokens[-1] in "*/":
        value = value * _factor(tokens) if tokens.pop() == "*" else value / _factor(tokens)
    return value


def _factor(tokens: list[str]) -> Fraction:
    if not tokens:
        raise _NoExpression
    part = tokens.pop()
    if part == "-":
        return -_factor(tokens)
    if part == "(":
        value = _sum(tokens)
        if not tokens or tokens.pop() != ")":
            raise _NoExpression
        return value
    if not part[0].isdigit():
        raise _NoExpression
    return Fraction(part)


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    if below != 1:
        return f"{value.numerator}/{value.denominator}"
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = str(abs((value * 10**places).numerator)).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
