"""What a checkpoint is for, as the name of its architecture says: generating text, making vectors, or neither."""

from typing import Final

from control.errors import Invalid

GENERATES: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
# The ends of transformers' and vLLM's names, each with what such a model answers.
_NOT_SERVED: Final = {
    "ForSequenceClassification": "a classifier or a reward model, whose answers are scores",
    "ForTokenClassification": "a classifier of tokens, whose answers are labels",
    "ForRewardModel": "a reward model, whose answers are scores",
    "ForProcessRewardModel": "a reward model, whose answers are scores",
    "ForQuestionAnswering": "a model that marks spans of a text",
    "ForMultipleChoice": "a classifier, whose answers are scores",
    "ForImageClassification": "a classifier of pictures",
    "ForAudioClassification": "a classifier of sounds",
}


def check_architecture(architectures: object) -> None:
    """`architectures` is what config.json says. Raises Invalid for a model that no route here can ask."""
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    for end, what in _NOT_SERVED.items():
        if architecture.endswith(end):
            raise Invalid(
                f"config.json: {architecture} is {what}: it cannot be served here, where models generate text"
                f" ({', '.join('…' + name for name in GENERATES)}) or make embeddings; `vllm serve` has /classify,"
                " /score and /pooling for it"
            )
