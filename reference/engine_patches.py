"""docs/engine-patches.md, out of the registry of what the gateway changes of vLLM."""

from gateway.engine.patches.patch import Patch
from gateway.engine.patches.registry import PATCHES

_INTRODUCTION = """# What the gateway changes of vLLM

Written by `python -m reference` from `gateway/engine/patches/`, a file for each change. `GET /diag` says which are in
force. `engine.patches.<name>`, `auto` or `off`, decides about each of the first list; `all` (or `*`) about every one
that is not named:

<!-- example: starts servers -->
```bash
INFERENCE_ENGINE__PATCHES='{"all": "off"}' stepserve up                             # vLLM as it is
INFERENCE_ENGINE__PATCHES='{"all": "off", "forked_engines": "auto"}' stepserve up   # but quick starts
```

With all of them off the server works; it is slower, and less is bounded. `tests/e2e/test_differential.py` asks engines
with and without them the same random requests and compares the answers.

When the pinned vLLM moves, `pytest tests/unit/gateway/engine/patches` says what to look at: for each change, whether
vLLM still lacks what it brings, and whether the source of what it touches is what it was written for.
"""
_REQUIRED = """## Needed

Without these there are wrong answers, or one request or engine ends more than itself; they have no setting.
"""


def page() -> str:
    optional = [_section(patch) for patch in PATCHES if not patch.required]
    required = [_section(patch) for patch in PATCHES if patch.required]
    return "\n".join([_INTRODUCTION, "## With a setting\n", *optional, _REQUIRED, *required])


def _section(patch: Patch) -> str:
    return f"""### `{patch.name}`

{patch.changes}

- *Why*: {patch.why}
- *Measured*: {patch.gain}
- *Without it*: {patch.without}
- *Seen with*: vLLM {", ".join(patch.seen_with)}
- *Can go when*: {patch.goes_when}
"""
