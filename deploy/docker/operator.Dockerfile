# docker build -f deploy/docker/operator.Dockerfile -t stepserve-operator .
# The operator for Kubernetes: a client of the server, without vLLM and torch.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin stepserve
WORKDIR /opt/stepserve
COPY requirements/operator.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r operator.lock
COPY pyproject.toml README.md LICENSE ./
COPY stepserve stepserve
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps .

USER 10001
ENTRYPOINT ["python", "-m", "stepserve.operator"]
