"""What vLLM puts before all other libraries of its processes, for speed: torch's OpenMP and its own allocator.

A process has them from its beginning or not at all. Imports nothing that takes time.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from stepserve.installed_vllm import is_cpu_build

VARIABLE = "LD_PRELOAD"

_WANTED = (
    ("torch", "lib/libgomp*.so*", ("libgomp", "libomp", "libiomp")),
    ("vllm", "libs/libtcmalloc*.so*", ("libtcmalloc",)),
)


def with_missing(preloaded: str) -> str:
    """`preloaded`, a value of LD_PRELOAD, and what it lacks of those that are installed."""
    found = []
    for package, pattern, names in _WANTED:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None and not any(name in preloaded for name in names):
            found += sorted(Path(spec.origin).parent.glob(pattern))[:1]
    return ":".join([*([preloaded] if preloaded else []), *map(str, found)])


def exec_with_them() -> None:
    """Begins this program again with them, in the same process. Returns where it has them, or computes on a GPU."""
    before = os.environ.get(VARIABLE, "")
    if is_cpu_build() and (wanted := with_missing(before)) != before:
        os.environ[VARIABLE] = wanted
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - its only purpose
