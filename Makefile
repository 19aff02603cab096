# Every target does all of its own set-up: git, make and a Python of at least 3.11 are enough.
# PYTHON chooses the interpreter. PIP_FIND_LINKS, when it is set, names folders of wheels, for pip and for uv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LINKS := $(foreach folder,$(PIP_FIND_LINKS),--find-links $(folder))
ARGS ?=
# Many tests wait for processes, so two workers more than there are cores.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)
# Python keeps what it compiles, wherever it is told not to: every worker and every process of the tests would compile all of it anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-quick check format bench bench-compute bench-planner bench-serving bench-chaos soak bench-abuse bench-predict serve-proto reference up clean

help: ## show this
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## the main job: raw data to a live, monitored model
	$(BIN)/python examples/digits/demo.py $(ARGS)

test: $(READY) ## every test
	$(BIN)/python -m pytest -m alone $$(grep -rl --include='*.py' 'mark\.alone' tests)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not alone" $(ARGS)

test-quick: $(READY) ## the tests that take seconds
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow" $(ARGS)

check: $(READY) ## format, lint, types, imports, tests and docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/reference.py --check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

format: $(READY) ## put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## measure this machine: make bench ARGS=--quick
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-compute: $(READY) ## measure scheduling, bursts and gangs; takes the same ARGS
	$(BIN)/python -m benchmarks.bench --suite compute $(ARGS)

bench-planner: $(READY) ## how far off plans are: takes some four minutes alone
	$(BIN)/python -m benchmarks.planner $(ARGS)

bench-serving: $(READY) ## Skyloom beside other model servers, in turns; needs wrk, h2load and nginx, makes their environments
	$(BIN)/python -m benchmarks.serving $(ARGS)

bench-chaos: $(READY) ## hurt a serving cloud and check its promises: make bench-chaos ARGS="replicas"; ARGS="all --quick" takes five minutes
	$(BIN)/python -m benchmarks.chaos $(or $(ARGS),all)

soak: $(READY) ## ten minutes of everything that clients do; memory and files stay flat. A day of it: make soak ARGS="--hours 24"
	$(BIN)/python -m benchmarks.chaos soak --minutes 10 --rate 20 $(ARGS)

bench-abuse: $(READY) ## what others feel while a client does its worst; needs h2load
	$(BIN)/python -m benchmarks.serving.abuse $(ARGS)

bench-predict: $(READY) ## batch prediction beside a plain loop over ONNX Runtime
	$(BIN)/python -m benchmarks.batch_predict $(ARGS)

serve-proto: $(READY) ## write the Python of the gRPC protocol again
	$(BIN)/python -m skyloom.inference.wire.generate

reference: $(READY) ## write docs/reference.md again
	$(BIN)/python scripts/reference.py

up: $(READY) ## start the cloud here, in the foreground
	$(BIN)/skyloom up $(ARGS)

clean: ## remove what make built
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# torch comes first and pinned, by pip: uv would choose a build for GPUs, several GB of it, where a small one is at hand.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old: Skyloom needs Python 3.11 or newer. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode $(LINKS) -e ".[local,train,ray,plot,edge,sklearn,litert,examples,dev]"
	$(BIN)/python -m compileall -q src
	@touch $@
