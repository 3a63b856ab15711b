"""What Streamlit runs for each visitor: the page that was chosen.

The pages lie in `views`: files in a folder `pages` beside this one Streamlit would take for programs of their own, and
run them, blank, for whoever opens the address of one.
"""

import sys
from pathlib import Path

# Streamlit puts this file's own folder on the path instead of the one that holds the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import streamlit as st

from ui import navigation
from ui.icon import ICON

st.set_page_config(page_title="Stepserve", page_icon=ICON, layout="wide")
navigation.draw()
