"""LlamaIndex' OpenAILike: requirements/llama-index.txt."""

import json
import sys

import openai
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

URL = f"{sys.argv[1]}/v1"
GREEDY = {"api_base": URL, "api_key": "none", "temperature": 0, "max_tokens": 8, "context_window": 512}
QUESTION = [ChatMessage(role="user", content="What is 17+25?")]

chat = OpenAILike(model="active", is_chat_model=True, **GREEDY)
text = OpenAILike(model="active", is_chat_model=False, **GREEDY)
prompt = "<|im_start|>user\nWhat is 17+25?<|im_end|>\n<|im_start|>assistant\n"
try:
    OpenAILike(model="nobody", is_chat_model=True, max_retries=0, **GREEDY).chat(QUESTION)
    refused = ""
except openai.NotFoundError as error:
    refused = str(error.code)
print(
    json.dumps(
        {
            "whole": chat.chat(QUESTION).message.content,
            "pieces": "".join(piece.delta or "" for piece in chat.stream_chat(QUESTION)),
            "text": text.complete(prompt).text,
            "refused": refused,
        }
    )
)
