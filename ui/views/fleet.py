"""The gateways of the fleet: what each serves, a rollout as it happens, and who is kept out of it."""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from stepserve.client.errors import NotFound
from ui import address, question
from ui.connection import server, trouble_shown
from ui.format import NOTHING, duration, size
from ui.harmless import cut, harmless

_EVERY_S = 2.0
_QUESTION = "fleet"
_DONE = "fleet_done"
_MEMBER = "fleet_member"
_LOCAL = "local"  # control's own gateway, which cannot be kept out
_OVER = ("committed", "rolled_back")
_HELD = ("draining", "cordoned")

Member = dict[str, Any]
Fleet = dict[str, Any]

_MEANING = {
    "joining": "does not serve the committed model yet",
    "draining": "answers what it has and gets no more",
    "cordoned": "is kept out of requests and switches",
    "lost": "has not been heard for longer than the lease, or was stopped",
}
_PHASES = {
    "staging": "Every member gets the files. Nothing serves the new model yet.",
    "committing": "Gateways switch in waves, each with its own proof.",
    "rolling_back": "It failed, and every gateway goes back to the model before.",
    "committed": "The gateways below that are proved serve it.",
    "rolled_back": "It was taken back: the model before serves everywhere.",
}
# What each action is called on its button, and what it does.
_ACTIONS = {
    "drain": ("Drain", "It answers what it has and gets no more. Switches leave it out until you let it in again."),
    "cordon": ("Cordon", "It gets no requests and takes part in no switch until you let it in again."),
    "uncordon": ("Let in again", "It is brought to the committed model first, and gets requests once it is proved."),
    "remove": ("Remove", "The control plane forgets it. It has to join anew to come back."),
}


def show() -> None:
    st.title("Fleet")
    _live()
    if (open_question := question.asked(_QUESTION)) is not None:
        _confirm(*open_question)


@st.fragment(run_every=_EVERY_S)
def _live() -> None:
    with trouble_shown():
        fleet = server().fleet()
        members: list[Member] = fleet["gateways"]
        _summary(fleet, members)
        _rollout(fleet)
        st.header("Gateways")
        st.dataframe(pd.DataFrame([_row(member) for member in members]), hide_index=True)
        _actions(members)


def _summary(fleet: Fleet, members: list[Member]) -> None:
    committed = fleet["committed"]
    ready, serves, busy = st.columns([1, 2, 1])
    ready.metric("Ready", f"{_count(members, 'ready')} of {len(members)}")
    serves.metric("Committed model", harmless(committed["model"]) if committed else NOTHING)
    busy.metric("Requests in flight", sum(member["in_flight"] for member in members))
    if committed is None:
        st.info("No model is active. Activate one on the page Models.", icon=":material/deployed_code:")
    if len(members) == 1:
        st.info(
            "No other gateway has joined. On another machine: `stepserve join URL-OF-THIS-SERVER`, with a key that has"
            " the scope `fleet`.",
            icon=":material/hub:",
        )
    for member in members:
        if (problem := _problem(member)) is not None:
            st.warning(harmless(problem))


def _problem(member: Member) -> str | None:
    """Why a person should look at it; None: it is as it should be, or on its way there."""
    state, why = member["state"], member["reason"]
    if state in {"ready", "switching"} or (state == "joining" and not why):
        return None
    return f"{member['id']} is {state}: it {_MEANING[state]}{f' ({why})' if why else ''}."


def _rollout(fleet: Fleet) -> None:
    rollout = fleet["rollout"]
    if rollout is None:
        return
    steps = sorted(rollout["steps"], key=lambda step: (step["wave"], step["member"]))
    proved = sum(step["state"] == "proved" for step in steps)
    table = pd.DataFrame(
        [{"wave": step["wave"], "gateway": step["member"], "step": step["state"], "why": step["error"]}
         for step in steps]
    )  # fmt: skip
    title = harmless(f"{rollout['previous']} → {rollout['model']}")
    if rollout["state"] in _OVER:
        st.caption(f"The last rollout, {title}: {rollout['state'].replace('_', ' ')}. {_PHASES[rollout['state']]}")
        if rollout["error"]:
            st.error(harmless(rollout["error"]))
        with st.expander("Its steps"):
            st.dataframe(table, hide_index=True)
        return
    st.header(f"Rollout {title}")
    st.progress(proved / len(steps), text=f"{rollout['state'].replace('_', ' ')}: {proved} of {len(steps)} proved")
    st.caption(f"{_PHASES[rollout['state']]} Waves: {rollout['wave']}, policy: {rollout['policy']}.")
    if rollout["error"]:
        st.error(harmless(rollout["error"]))
    st.dataframe(table, hide_index=True)


def _row(member: Member) -> dict[str, Any]:
    return {
        "gateway": member["id"],
        "state": member["state"],
        "why": member["reason"],
        "model": member["model"],
        "version": member["version"],
        "in flight": member["in_flight"],
        "heard": f"{duration(member['heartbeat_age_s'])} ago",
        "zone": member["zone"],
        "labels": ", ".join(f"{name}={value}" for name, value in sorted(member["labels"].items())),
        "devices": ", ".join(f"{one['name']} ({size(one['free_bytes'])} free)" for one in member["devices"]),
        "address": member["url"],
        "Stepserve": member["stepserve_version"],
        "vLLM": member["vllm_version"],
        "digest": (member["digest"] or "").removeprefix("sha256:")[:12],
    }


def _actions(members: list[Member]) -> None:
    if (done := st.session_state.get(_DONE)) is not None:
        st.success(harmless(done))
    names = [member["id"] for member in members if member["id"] != _LOCAL]
    if not names:
        return
    address.follow("member", _MEMBER, names, None)
    chosen = st.selectbox(
        "Keep one out, or let it in",
        names,
        index=None,
        key=_MEMBER,
        placeholder="Choose a gateway",
        on_change=partial(address.remember, "member", _MEMBER),
        help="Control's own gateway is not among them: it stays as long as the server runs.",
    )
    if chosen is None:
        return
    state = next(member["state"] for member in members if member["id"] == chosen)
    for column, (action, (label, _)) in zip(st.columns(len(_ACTIONS)), _ACTIONS.items(), strict=True):
        if column.button(label, key=f"fleet_{action}", disabled=not _is_possible(action, state)):
            st.session_state.pop(_DONE, None)
            question.ask(_QUESTION, (action, chosen))
    if state != "lost":
        st.caption("A gateway is removed once it is lost: stop it on its own machine first.")


def _is_possible(action: str, state: str) -> bool:
    match action:
        case "remove":
            return state == "lost"
        case "uncordon":
            return state in {*_HELD, "lost"}
        case "drain":
            return state not in {*_HELD, "lost"}
        case _:
            return state != "cordoned"


def _confirm(action: str, member_id: str) -> None:
    label, meaning = _ACTIONS[action]

    def explain() -> bool:
        members = server().fleet()["gateways"]
        member = next((each for each in members if each["id"] == member_id), None)
        if member is None:
            st.warning(harmless(f"{member_id} is not a member any more."))
            return False
        st.write(meaning)
        st.text(cut(f"{member_id} is {member['state']} and answers {member['in_flight']} requests now."))
        if action in {"drain", "cordon"} and not _count([each for each in members if each is not member], "ready"):
            st.warning("No other gateway is ready: requests would wait, or be refused.")
        return True

    def act() -> None:
        st.session_state[_DONE] = _done(action, member_id)

    question.answered(_QUESTION, harmless(f"{label} {member_id}?"), explain, f"{label} {member_id}", act)


def _done(action: str, member_id: str) -> str:
    """Raises StepserveError."""
    if action != "remove":
        return f"{member_id} is {server().hold_member(member_id, action)['state']}."
    try:
        server().remove_member(member_id)
    except NotFound:
        return f"{member_id} was removed before."
    address.forget("member")
    return f"{member_id} is removed."


def _count(members: list[Member], state: str) -> int:
    return sum(member["state"] == state for member in members)
