"""vLLM renders chat templates in this process, in a thread that nothing can end: they are bounded from within.

Its own time limit (VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT) answers the client and leaves the thread running, for ever if the
template says so, and rendering a batch has none.
"""

import jinja2.sandbox

from gateway.engine.patches.patch import Patch
from stepserve.chat_template import BoundedEnvironment
from stepserve.settings import EngineSettings


def bound_templates(_settings: EngineSettings | None = None) -> None:
    """For every template from now on: transformers and vLLM make their environments of what these names mean.

    vLLM's own looks for a template's variables alone, but jinja2 works out constants for that: `9**9**9` is enough.
    """
    from transformers.utils import chat_template_utils

    setattr(jinja2.sandbox, "ImmutableSandboxedEnvironment", BoundedEnvironment)  # noqa: B010 - mypy forbids the other way
    if chat_template_utils.ImmutableSandboxedEnvironment is not BoundedEnvironment:
        chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment
        chat_template_utils._compile_jinja_template.cache_clear()


PATCH = Patch(
    name="bounded_templates",
    changes="Chat templates are rendered in a jinja2 environment that bounds loops, sizes and constants.",
    why="vLLM's time limit answers the client and leaves the rendering thread running; a batch has no limit.",
    without="A checkpoint's template can occupy the renderer's thread for ever.",
    gain="Not a matter of speed: a template that would not end is a 400 (tests/integration/test_chat_templates.py).",
    goes_when="vLLM renders templates where it can stop them.",
    targets={
        "transformers.utils.chat_template_utils:_compile_jinja_template": "38f46c999966",
        "transformers.utils.chat_template_utils:render_jinja_template": "8795eff8ca21",
    },
    before_engine=bound_templates,
)
