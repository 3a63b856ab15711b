"""Files that aider reads of a model.

The demo model knows nothing of programs, so a grammar holds its answer to one: what is tested is that aider and the
server understand each other.
"""

import json
from pathlib import Path

EDITED = "print('hello')"


def write_settings(folder: Path, model: str, context_tokens: int) -> list[str]:
    """The arguments that name them."""
    answer = f"hello.py\n```\n{EDITED}\n```\n"
    extra = {"max_tokens": 128, "extra_body": {"structured_outputs": {"choice": [answer]}}}
    settings = [{"name": model, "edit_format": "whole", "use_repo_map": False, "extra_params": extra}]
    facts = {
        model: {
            "max_input_tokens": context_tokens,
            "max_output_tokens": 128,
            "litellm_provider": "openai",
            "mode": "chat",
        }
    }
    (folder / "settings.yml").write_text(json.dumps(settings))  # JSON is YAML
    (folder / "facts.json").write_text(json.dumps(facts))
    return [f"--model-settings-file={folder / 'settings.yml'}", f"--model-metadata-file={folder / 'facts.json'}"]
