"""From a sample to what the engine is asked."""

from evals.sample import Sample
from switchyard.contract import BatchItem, ChatMessage


def batch_item(sample: Sample, system_prompt: str | None) -> BatchItem:
    """A question becomes a user's turn (after the system's, if any); a prompt and a conversation stay as they are."""
    if isinstance(sample.input, list):
        messages = [ChatMessage.model_validate(turn) for turn in sample.input]
        return BatchItem(messages=messages, reference=sample.target)
    if sample.format == "prompt_answer":
        return BatchItem(prompt=sample.input, reference=sample.target)
    turns = [ChatMessage(role="user", content=sample.input)]
    if system_prompt is not None:
        turns.insert(0, ChatMessage(role="system", content=system_prompt))
    return BatchItem(messages=turns, reference=sample.target)
