"""A page as a visitor's browser holds it."""

from typing import Any

from streamlit.testing.v1 import AppTest

PAGES = (
    "overview", "playground", "solve", "runs", "models", "evals", "promotions", "data", "jobs", "fleet", "keys",
    "system",
)  # fmt: skip

_GUARD_S = 120.0  # of a page that hangs: the first one imports what draws charts


def _script(name: str) -> None:
    from ui import navigation  # noqa: PLC0415 - Streamlit runs this function's text as a script of its own

    navigation.draw(name)


def opened(name: str, key: str | None = None, tab: str | None = None, **address: str) -> AppTest:
    """`address`: what stands in it after the question mark."""
    page = AppTest.from_function(_script, args=(name,), default_timeout=_GUARD_S)
    if key is not None:
        page.session_state["api_key"] = key
    if tab is not None:
        page.session_state[f"{name}_tab"] = tab
    page.query_params |= address
    return page.run()


def words(page: AppTest) -> str:
    """Everything on it that can be read."""
    kinds = (
        "title", "header", "markdown", "caption", "text", "code", "info", "success", "warning", "error",
    )  # fmt: skip
    found = [str(element.value) for kind in kinds for element in getattr(page, kind)]
    return "\n".join([*found, *(f"{metric.label}: {metric.value}" for metric in page.metric)])


def cells(page: AppTest) -> list[dict[str, Any]]:
    """The rows of every table on it."""
    return [row for table in page.dataframe for row in table.value.to_dict("records")]
