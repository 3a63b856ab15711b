"""A sentence-transformers checkpoint: how its vectors are made is said in `modules.json`; vLLM follows it in part."""

from pathlib import Path
from typing import Any

from control.errors import Invalid
from stepserve.digest import is_content

MODULES = "modules.json"
_SERVED = ("Transformer", "Pooling", "Normalize")


def check_modules(modules: Any, folder: Path) -> None:
    """`modules` is the content of modules.json. Blocks.

    Raises Invalid for a step that would be left out, since the vectors would then be others than the model's.
    """
    if not (isinstance(modules, list) and all(isinstance(module, dict) for module in modules)):
        raise Invalid(f"{MODULES} holds no list of modules")
    for module in modules:
        kind, path = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        if kind not in _SERVED:
            raise Invalid(f"{MODULES} names the module {kind or '?'}; served are {', '.join(_SERVED)}")
        if kind == "Pooling":
            name = f"{path}/config.json"
            if not is_content(name):
                raise Invalid(f"{MODULES} names the folder {path!r}; one such as 1_Pooling is expected")
            if not (folder / name).is_file():
                raise Invalid(f"{name} is missing, {MODULES} names it")
