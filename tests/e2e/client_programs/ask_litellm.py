"""LiteLLM as a client of /v1 and of /api: requirements/litellm.txt."""

import json
import sys

import litellm

URL = sys.argv[1]
ASKED = {"messages": [{"role": "user", "content": "What is 17+25?"}], "temperature": 0}
OPENAI = {"api_base": f"{URL}/v1", "api_key": "none", **ASKED}

litellm.telemetry = False
whole = litellm.completion(model="openai/active", **OPENAI)
pieces = litellm.completion(model="openai/active", stream=True, **OPENAI)
ollama = litellm.completion(model="ollama_chat/active", api_base=URL, **ASKED)
claude = litellm.completion(model="anthropic/active", api_base=URL, api_key="none", max_tokens=8, **ASKED)
try:
    litellm.completion(model="openai/nobody", **OPENAI)
    refused = 0
except litellm.NotFoundError as error:
    refused = error.status_code
print(
    json.dumps(
        {
            "whole": whole.choices[0].message.content,
            "tokens": whole.usage.completion_tokens,
            "pieces": "".join(piece.choices[0].delta.content or "" for piece in pieces),
            "ollama": ollama.choices[0].message.content,
            "anthropic": claude.choices[0].message.content,
            "refused": refused,
        }
    )
)
