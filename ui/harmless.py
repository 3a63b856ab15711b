"""Text that others wrote: models, servers, files. Shown as it is; where it is drawn as Markdown, nothing is fetched.

Streamlit's Markdown shows HTML as text, but an image is fetched as soon as it is drawn: a model that is told to, or
made to, could send what it was told to a stranger's server. Dollars become formulas, and `:red[…]`, `:smile:` and
`:material/home:` something else than what was said. A text of megabytes stops the page.
"""

import re

MOST_CHARACTERS = 100_000
_MOST_AT_ONCE = 20_000

_DESTINATIONS = ("](", "][", "]:")
_DIRECTIVE = re.compile(r":(?=[a-z][a-z0-9_+-]*(?:\[|:|/))", re.IGNORECASE)


def cut(text: str) -> str:
    """For what draws no Markdown: the same text, cut where it is too long to be drawn."""
    left_out = len(text) - MOST_CHARACTERS
    return f"{text[:MOST_CHARACTERS]}\n\n… {left_out:,} more characters are not shown." if left_out > 0 else text


def newest(text: str) -> str:
    """For what is drawn anew many times a second: the end of it, where it is long."""
    before = len(text) - _MOST_AT_ONCE
    return text if before <= 0 else f"… {before:,} characters before these are shown at the end.\n\n{text[before:]}"


def as_markdown(text: str) -> str:
    """Markdown of which nothing is fetched and nothing is an instruction to Streamlit; formulas stay.

    Code is not told apart, since the browser's parser may see it elsewhere: `![` is left alone only where nothing in
    the text could be an image's address, and what looks like a directive in code shows a backslash.
    """
    text = cut(text)
    if "![" in text and any(mark in text for mark in _DESTINATIONS):
        text = text.replace("![", "!\\[")
    return _DIRECTIVE.sub(r"\:", text)


def harmless(text: str) -> str:
    """A message or a name that is put among words of a page's own; formulas are none."""
    return as_markdown(text).replace("$", "\\$")
