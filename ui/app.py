"""What Streamlit runs for each visitor: the connection in the sidebar, and the page that was chosen.

The pages lie in `views`: files in a folder `pages` beside this one Streamlit would take for programs of their own, and
run them, blank, for whoever opens the address of one.
"""

import sys
from pathlib import Path

# Streamlit puts this file's own folder on the path instead of the one that holds the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import streamlit as st

from ui import connection
from ui.icon import ICON
from ui.views import data, evals, fleet, jobs, models, overview, playground, promotions, solve, system

st.set_page_config(page_title="Stepserve", page_icon=ICON, layout="wide")
chosen = st.navigation(
    [
        st.Page(overview.show, title="Overview", icon=":material/monitoring:", default=True),
        st.Page(playground.show, title="Playground", icon=":material/forum:", url_path="playground"),
        st.Page(solve.show, title="Solve", icon=":material/calculate:", url_path="solve"),
        st.Page(models.show, title="Models", icon=":material/deployed_code:", url_path="models"),
        st.Page(evals.show, title="Evals", icon=":material/query_stats:", url_path="evals"),
        st.Page(promotions.show, title="Promotions", icon=":material/verified:", url_path="promotions"),
        st.Page(data.show, title="Data", icon=":material/dataset:", url_path="data"),
        st.Page(jobs.show, title="Jobs", icon=":material/checklist:", url_path="jobs"),
        st.Page(fleet.show, title="Fleet", icon=":material/hub:", url_path="fleet"),
        st.Page(system.show, title="System", icon=":material/memory:", url_path="system"),
        # The first page has the address / alone; who types the name that all others have finds it too.
        st.Page(overview.show, title="Overview", url_path="overview", visibility="hidden"),
    ]
)
connection.ask_for_key()
chosen.run()
