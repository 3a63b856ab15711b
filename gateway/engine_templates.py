"""vLLM renders chat templates in this process, in a thread that nothing can end: they are bounded from within.

Its own time limit (VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT) answers the client and leaves the thread running, for ever if the
template says so, and rendering a batch has none.
"""

import jinja2.sandbox
from transformers.utils import chat_template_utils

from stepserve.chat_template import BoundedEnvironment


def bound_templates() -> None:
    """For every template from now on: transformers and vLLM make their environments of what these names mean.

    vLLM's own looks for a template's variables alone, but jinja2 works out constants for that: `9**9**9` is enough.
    """
    setattr(jinja2.sandbox, "ImmutableSandboxedEnvironment", BoundedEnvironment)  # noqa: B010 - mypy forbids the other way
    if chat_template_utils.ImmutableSandboxedEnvironment is not BoundedEnvironment:
        chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment
        chat_template_utils._compile_jinja_template.cache_clear()
