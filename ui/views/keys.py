"""Keys: who may use the server, what they used, and a form for another one."""

from typing import Any

import pandas as pd
import streamlit as st

from ui import question
from ui.connection import server, trouble_shown
from ui.format import NOTHING
from ui.harmless import cut, harmless

_SCOPES = ("infer", "jobs", "weights", "metrics", "fleet", "admin")
_QUESTION = "keys_revoke"
_MADE = "keys_made"
_LIMITS = (("requests_per_min", "requests/min"), ("tokens_per_min", "tokens/min"), ("max_concurrent", "at once"))


def show() -> None:
    st.title("Keys")
    with trouble_shown():
        keys = server().list_keys()
        if keys:
            st.dataframe(pd.DataFrame([_row(key) for key in keys]), hide_index=True)
            _one(keys)
        else:
            st.info("There is no key: everybody on this machine may everything, and nobody from elsewhere.")
        _make()
    _confirm()


def _row(key: dict[str, Any]) -> dict[str, Any]:
    used = key["usage"]
    return {
        "name": key["name"],
        "status": key["status"],
        "scopes": ", ".join(key["scopes"]),
        "limits": ", ".join(f"{key[name]:,} {said}" for name, said in _LIMITS if key[name] is not None) or NOTHING,
        "requests": used["requests"],
        "prompt tokens": used["prompt_tokens"],
        "completion tokens": used["completion_tokens"],
        "expires": (key["expires_at"] or NOTHING)[:10],
        "id": key["id"],
    }


def _one(keys: list[dict[str, Any]]) -> None:
    names = {key["id"]: f"{key['name']} · {key['id']}" for key in keys}
    chosen = st.selectbox("Usage of", list(names), key="keys_one", format_func=lambda name: names.get(name, name))
    key = server().get(f"/keys/{chosen}")
    days = pd.DataFrame(key["usage_by_day"])
    if days.empty:
        st.caption("It was not used yet.")
    else:
        days["tokens"] = days["prompt_tokens"] + days["completion_tokens"]
        spec = {
            "height": 200,
            "mark": "bar",
            "encoding": {
                "x": {"field": "day", "type": "ordinal", "title": None},
                "y": {"field": "tokens", "type": "quantitative", "title": "tokens", "axis": {"format": "~s"}},
                "color": {"field": "model", "type": "nominal", "legend": {"orient": "bottom", "title": None}},
            },
        }
        st.vega_lite_chart(days, spec, alt="Tokens a day, by model")
        st.dataframe(days, hide_index=True)
    if key["status"] == "valid" and st.button("Revoke …", key="keys_revoke"):
        question.ask(_QUESTION, key)


def _make() -> None:
    with st.expander("Make a key"), st.form("keys_make", clear_on_submit=True):
        name = st.text_input("Whose key it is", key="keys_name")
        scopes = st.multiselect("Scopes", _SCOPES, ["infer"], key="keys_scopes")
        days = st.number_input("Days until it expires", 1, None, None, key="keys_days", placeholder="never")
        limits = {
            field: st.number_input(
                f"At most so many {said}", 1, None, None, key=f"keys_{field}", placeholder="no limit"
            )
            for field, said in _LIMITS
        }
        asked = st.form_submit_button("Make")
    if asked and not (name.strip() and scopes):
        st.warning("Give a name and at least one scope.")
    elif asked:
        wanted = {"name": name.strip(), "scopes": scopes, "expires_in_days": days, **limits}
        with trouble_shown():
            st.session_state[_MADE] = server().create_key(**{one: value for one, value in wanted.items() if value})
    if made := st.session_state.pop(_MADE, None):
        st.success(harmless(f"{made['name']} may {', '.join(made['scopes'])}. The key is shown this once:"))
        st.code(cut(made["key"]), language=None)


def _confirm() -> None:
    key = question.asked(_QUESTION)
    if key is None:
        return

    def explain() -> bool:
        st.write("Requests with it are refused within about a second. It cannot be undone.")
        return True

    def act() -> None:
        server().revoke_key(key["id"])

    question.answered(_QUESTION, harmless(f"Revoke {key['name']}?"), explain, "Revoke", act)
