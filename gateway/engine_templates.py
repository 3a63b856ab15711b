"""vLLM renders chat templates in this process, in a thread that nothing can end: they are bounded from within.

Its own time limit (VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT) answers the client and leaves the thread running, for ever if the
template says so, and rendering a batch has none.
"""

from transformers.utils import chat_template_utils

from switchyard.chat_template import BoundedEnvironment


def bound_templates() -> None:
    """For every template from now on. transformers makes its environments of the class found under this name."""
    if chat_template_utils.ImmutableSandboxedEnvironment is not BoundedEnvironment:
        chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment
        chat_template_utils._compile_jinja_template.cache_clear()
