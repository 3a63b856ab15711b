# Two commands do everything: `make run` and `make test`.
VENV ?= .venv
BIN := $(VENV)/bin
# Without the bytecode it may write, every program would compile vLLM again, for many times what its start takes.
unexport PYTHONDONTWRITEBYTECODE
# What fails is run once more, and named as flaky if it passes then: a defect to be found. Not after a hang.
PYTEST := $(BIN)/python -m pytest --durations=25 --reruns 1 --rerun-except Timeout

.PHONY: run test unit test-e2e coverage test-long soak lint types style format bench demo-model docs reference examples screenshots wheels release clean-dist lock install install-dev clean

run: install  ## Serve on http://localhost:8765, with the demo checkpoint if there is no other
	@exec $(BIN)/stepserve up

test: install-dev  ## Unit, integration, and e2e against real vLLM; `make test-long` has the long ones
	@$(MAKE) --no-print-directory -j2 -O test-e2e unit NICE="nice -n 5"

# Files run in the order given and stay whole: what is quick first, where a run that has an end (TESTS_UNTIL) may not
# come to the rest. `make test` runs them at a lower priority than e2e, whose servers answer to deadlines.
PROCESSES ?= logical
unit: install-dev  ## The tests that start no engine, on every core
	$(NICE) $(PYTEST) -n $(PROCESSES) --maxprocesses=8 --dist loadfile --no-loadscope-reorder tests/unit tests/ui tests/integration

test-e2e: install-dev
	$(PYTEST) tests/e2e

# In one process, which every line of a test costs some of: minutes where the cores are busy. `make test` does without.
PURE := tests/unit/evals/test_{compare,error_share,exact_match,flaky,formats,intervals,paired_tests,sample,sample_ids,scorers,tally}.py \
	tests/unit/gateway/{filtering,request} tests/unit/gateway/balancing/test_choice.py \
	tests/unit/gateway/serving/{canary,test_naming.py,test_room.py,test_turns.py}
coverage: install-dev  ## Branches of the pure packages that their tests reach, with a floor (pyproject.toml)
	mkdir -p build
	bash -c '$(BIN)/python -m coverage run -m pytest -q -p no:cacheprovider $(PURE)'
	$(BIN)/python -m coverage report

test-long: install-dev  ## The tests that take long: other programs' environments, SLURM and systemd, the comparison with a bare vLLM
	$(PYTEST) -m long tests/e2e tests/integration

HOURS ?= 2
soak: install-dev  ## Hours (HOURS) of mixed traffic: memory, open files, threads and latency must not drift
	$(BIN)/python -m benchmarks.soak --hours $(HOURS)

lint: install-dev
	@$(MAKE) --no-print-directory -j2 -O types style

types: install-dev
	$(BIN)/mypy

style: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m tests.prose

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

BENCH ?= bench.json
bench: install-dev  ## Throughput against bare vLLM in the same run, as ratios, which go into bench.json too
	$(BIN)/python -m benchmarks.gateway --json $(BENCH)
	$(BIN)/python -m benchmarks.eval --json $(BENCH)

demo-model: install-dev  ## Train the demo checkpoints again (about five minutes)
	rm -rf demo/checkpoints.new
	$(BIN)/python -m demo.train --out demo/checkpoints.new --eval-set demo/datasets/math_eval.jsonl
	$(BIN)/python -m demo.task_writer --from demo/checkpoints.new/step-1500 --out demo/checkpoints.new/task-writer
	rm -rf demo/checkpoints && mv demo/checkpoints.new demo/checkpoints
	$(BIN)/python -m demo.references

docs: install-dev  ## The documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html; with its search: $(BIN)/python -m http.server -d build/site"

URL ?= http://localhost:8765
reference: install-dev  ## The pages of docs/ that describe the program; needs a running server (URL)
	$(BIN)/python -m reference --url $(URL)

examples: install-dev  ## docs/reference/examples.md, from a server of its own
	$(BIN)/python -m reference.record

screenshots: install-dev  ## Pictures of the web UI and a terminal session into docs/images, from a server of its own
	$(BIN)/python -m tests.e2e.screenshots

wheels: install-dev  ## The two distributions, in dist/: the client's and the server's
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .
	$(BIN)/python -m build --wheel --no-isolation --outdir dist server

RELEASE := build/release
release: clean-dist wheels  ## Both wheels, checked in an empty environment, and what is in them as CycloneDX, in dist/
	$(BIN)/python -m venv --clear $(RELEASE)
	$(RELEASE)/bin/pip --disable-pip-version-check install -q twine cyclonedx-bom
	$(RELEASE)/bin/twine check --strict dist/*.whl
	for device in cpu cuda; do \
		$(RELEASE)/bin/cyclonedx-py requirements requirements/$$device.lock --pyproject server/pyproject.toml \
			--output-reproducible -o dist/stepserve-server-$$device.cdx.json; \
	done
	$(BIN)/python -m venv --clear $(RELEASE)
	$(RELEASE)/bin/pip --disable-pip-version-check install -q dist/stepserve-[0-9]*.whl
	$(RELEASE)/bin/stepserve --version
	$(RELEASE)/bin/pip --disable-pip-version-check install -q --no-deps dist/stepserve_server-*.whl
	ls -l dist

clean-dist:
	rm -rf dist

lock: install-dev  ## Compile requirements/*.lock from pyproject.toml
	requirements/lock

install:
	@requirements/install $(VENV)

install-dev:
	@requirements/install $(VENV) dev

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
