"""inspect-ai's provider of OpenAI-compatible servers: requirements/inspect.txt. Reads the server's URL from
STEPSERVE_BASE_URL.
"""

import json

from inspect_ai import Task
from inspect_ai import eval as evaluated
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import match
from inspect_ai.solver import generate

dataset = [Sample(input=f"What is {a}+25?", target=str(a + 25)) for a in (17, 20, 31)]
task = Task(dataset=dataset, solver=generate(), scorer=match(), config=GenerateConfig(temperature=0, max_tokens=8))
(log,) = evaluated(task, model="openai-api/stepserve/active", display="none", log_level="error")
scores = log.results.scores[0].metrics if log.results else {}
print(json.dumps({"status": log.status, "accuracy": scores["accuracy"].value}))
