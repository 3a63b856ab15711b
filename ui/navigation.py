"""The pages, their names and addresses, and what stands on every one of them: who is asked, and what serves."""

import streamlit as st

from ui import links, sidebar
from ui.views import data, evals, fleet, jobs, keys, models, overview, playground, promotions, runs, solve, system

_PAGES = {
    "overview": (overview.show, "Overview", ":material/monitoring:"),
    "playground": (playground.show, "Playground", ":material/forum:"),
    "solve": (solve.show, "Solve", ":material/calculate:"),
    "runs": (runs.show, "Runs", ":material/show_chart:"),
    "models": (models.show, "Models", ":material/deployed_code:"),
    "evals": (evals.show, "Evals", ":material/query_stats:"),
    "promotions": (promotions.show, "Promotions", ":material/verified:"),
    "data": (data.show, "Data", ":material/dataset:"),
    "jobs": (jobs.show, "Jobs", ":material/checklist:"),
    "fleet": (fleet.show, "Fleet", ":material/hub:"),
    "keys": (keys.show, "Keys", ":material/key:"),
    "system": (system.show, "System", ":material/memory:"),
}
START = "overview"


def draw(start: str = START) -> None:
    """The page that the visitor chose. `start`: the one that has the address / alone."""
    pages = {
        name: st.Page(show, title=title, icon=icon, url_path=None if name == start else name, default=name == start)
        for name, (show, title, icon) in _PAGES.items()
    }
    links.know(pages)
    show, title, icon = _PAGES[start]
    # Who types the name that all others have finds the first one too.
    named = st.Page(show, title=title, icon=icon, url_path=start, visibility="hidden")
    chosen = st.navigation([*pages.values(), named])
    sidebar.draw()
    chosen.run()
