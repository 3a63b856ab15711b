"""Which versions of vLLM the gateway runs with."""

SUPPORTED = ("0.32", "0.33")  # docs/engine.md says what was looked at for each


class VllmRefused(Exception):
    """The gateway cannot run with what is installed; the text says so with the way out."""


def check_version(found: str | None) -> None:
    """Raises VllmRefused for a version that the adapter was not written for."""
    series = " and ".join(SUPPORTED)
    if found is None:
        raise VllmRefused("vLLM is not installed: install stepserve-server with the extra `cuda` or `cpu`")
    if ".".join(found.split(".")[:2]) not in SUPPORTED:
        raise VllmRefused(f"vLLM {found} is installed, and the gateway runs with {series}: install one of those")
