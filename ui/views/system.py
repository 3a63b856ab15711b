"""The machine: cards, disks, power profile; its logs; its settings and where each comes from."""

import json
from typing import Any

import pandas as pd
import streamlit as st

from stepserve.client.errors import Unavailable
from ui import address, log_lines
from ui.connection import server, trouble_shown
from ui.format import NOTHING, percent

_EVERY_S = 3.0


def show() -> None:
    st.title("System")
    machine, logs, settings = address.tabs("system_tab", ("Machine", "Logs", "Settings"))
    if machine.open:
        with machine:
            _machine()
            _power()
    if logs.open:
        with logs:
            log_lines.draw()
    if settings.open:
        with settings:
            _settings()


@st.fragment(run_every=_EVERY_S)
def _machine() -> None:
    with trouble_shown():
        system = server().system_stats()
        load, memory = st.columns(2)
        load.metric("Processor", percent(system.cpu_load))
        memory.metric("Memory", f"{system.ram_used_gb:.1f} of {system.ram_total_gb:.1f} GB")
        st.header("Disks")
        for disk in system.disk:
            said = f"{disk['mount']}: {disk['used_gb']:.0f} of {disk['total_gb']:.0f} GB"
            st.progress(min(1.0, disk["percent"] / 100), text=said)
        st.header("GPU")
        try:
            gpu = server().gpu_stats()
        except Unavailable as error:
            st.info(error.detail)
            return
        cards = gpu.gpus or [gpu.as_json()]
        st.dataframe(pd.DataFrame([_card(card) for card in cards]), hide_index=True)


def _card(card: dict[str, Any]) -> dict[str, Any]:
    return {
        "card": card.get("name"),
        "memory MB": f"{card.get('memory_used_mb')} of {card.get('memory_total_mb')}",
        "busy %": card.get("utilization_gpu"),
        "°C": card.get("temperature_gpu"),
        "W": f"{card.get('power_draw_w')} of {card.get('power_limit_w')}",
        "fan %": card.get("fan_speed_pct"),
    }


def _power() -> None:
    st.header("Power profile")
    with trouble_shown(again=True):
        now = server().power_profile()
        names = list(now.get("profiles") or ("quiet", "normal", "max"))
        chosen = st.selectbox(
            "Profile", names, index=names.index(now.profile) if now.profile in names else None, key="system_profile"
        )
        watts = NOTHING if now.power_limit_w is None else f"{now.power_limit_w:.0f} W a card"
        st.caption(f"Now {now.profile or 'none'}: {watts}, jobs at once: {now.max_concurrent_jobs}")
        if chosen and st.button("Set", key="system_set_profile"):
            told = server().set_power_profile(chosen)
            st.success(f"{told.profile} holds.")
            if told.get("power_applied") is False:
                st.caption(f"The cards' limit was not changed: {told.get('reason') or 'no card, or no right to'}.")


def _settings() -> None:
    """Each with where it comes from; secrets are asterisks."""
    with trouble_shown():
        told = server().get("/config", {"origins": True})["settings"]
        changed = st.toggle("Only what is not a default", value=True, key="system_changed")
        sought = st.text_input("Find", key="system_setting", placeholder="part of a setting's name").strip().casefold()
        rows = [
            {"setting": one["name"], "value": _text(one["value"]), "from": one["origin"]}
            for one in told
            if sought in one["name"].casefold() and not (changed and one["origin"] == "default")
        ]
        if rows:
            st.dataframe(pd.DataFrame(rows), hide_index=True)
        st.caption(f"{len(rows)} of {len(told)} settings. They are changed in the config file or the environment.")


def _text(value: Any) -> str:
    return NOTHING if value is None else value if isinstance(value, str) else json.dumps(value)
