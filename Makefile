# From a fresh clone, with Python 3.11 or newer and make: `make run`, `make test`.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory --warn-undefined-variables

# What may be said on the command line: see `make help`.
PYTHON ?= python3
ARGS ?=
QUICK ?=
UPDATE ?=

VENV := .venv
BIN := $(VENV)/bin
PROTOS_VENV := .venv-protos
PROTOS_BIN := $(PROTOS_VENV)/bin
BENCH_VENV := .venv-bench

# What has services, and what only example apps speak.
PROTOS := $(wildcard protos/session_service/v1/*.proto)
EXAMPLE_PROTOS := $(wildcard protos/session_service/examples/v1/*.proto)
CONFORMANCE := session_conformance/v1
GENERATED := session_service/v1 session_service/examples/v1 clients/conformance/$(CONFORMANCE)
ADDRESS := 127.0.0.1:50051

# What `make tools` has put there, before whatever the machine has.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Show this help
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(VENV)/.dev ## Make or update .venv, with everything that development needs

define TRY
Try, in another terminal, with grpcurl:

grpcurl -plaintext -d '
  {"open": {"app": "greet"}}
  {"events": [{"event": "answer", "data": "Ada"}, {"event": "answer", "data": 36}]}
' $(ADDRESS) session_service.v1.SessionService/Attach

or, with nothing but the generated stub:

$(BIN)/python -c '
import grpc
from session_service.v1 import session_pb2 as pb, session_pb2_grpc as rpc
requests = [pb.AttachRequest(open=pb.Open(app="echo")), pb.AttachRequest(events=[pb.Event(event="say", json="[1, 2]")])]
for response in rpc.SessionServiceStub(grpc.insecure_channel("$(ADDRESS)")).Attach(iter(requests)):
    print(response)
'

endef
export TRY

.PHONY: run
run: $(VENV)/.run ## Serve the examples on 127.0.0.1:50051
	@printf '%s\n' "$$TRY"
	@$(BIN)/session-service serve --listen $(ADDRESS) session_service.examples:apps

.PHONY: demo
demo: $(VENV)/.run ## Show a conversation that survives its connection; it ends by itself
	@$(BIN)/python clients/python/demo.py

# Some tests wait, so one worker more than there are cores.
WORKERS := $(shell expr 1 + $$(getconf _NPROCESSORS_ONLN))
# What needs neither a server process nor a socket but to itself.
QUICK_TESTS := tests/delivery tests/session tests/testing tests/test_*.py

.PHONY: test
test: setup ## Run the tests; QUICK=1: the inner loop; ARGS="tests/delivery -x" is handed to pytest
	$(BIN)/pytest $(or $(ARGS),-n $(WORKERS) --dist worksteal --ignore=$(KIT_TESTS) $(if $(QUICK),$(QUICK_TESTS)))

# Its cases are about time, and so it runs alone.
KIT_TESTS := tests/conformance/test_server_suite.py

.PHONY: test-kit
test-kit: setup ## Test that the conformance kit finds the bugs that are planted in servers
	$(BIN)/pytest $(KIT_TESTS) $(ARGS)

# Those that run most of the code in their own process; the others start servers of their own, and take long.
COVERED := tests/session tests/delivery tests/payload tests/testing tests/protocol tests/client tests/server $(wildcard tests/test_*.py)
# What is pure is reached whole.
WHOLE := */session_service/delivery/*,*/session_service/payload/*,*/session_service/lifecycle.py

.PHONY: coverage
coverage: setup ## Measure the lines and branches that the faster tests reach; fail where they are less than they were
	$(BIN)/pytest -n $(WORKERS) --dist worksteal --cov $(COVERED)
	$(BIN)/coverage report --include='$(WHOLE)' --fail-under=100

.PHONY: test-image
test-image: setup ## Build the image and test its containers, by docker, podman or what IMAGE_RUNNER names
	$(BIN)/pytest tests/image $(ARGS)

.PHONY: test-proxies
test-proxies: setup ## Test sessions through nginx and HAProxy; `make tools` finds or installs those
	$(BIN)/pytest tests/proxies $(ARGS)

.PHONY: test-go
test-go: setup ## Test the Go client; it needs Go, and `make tools` finds or installs that
	$(MAKE) -C clients/go lint test

TYPESCRIPT := clients/typescript

.PHONY: test-typescript
test-typescript: setup $(TYPESCRIPT)/node_modules/.package-lock.json ## Test the TypeScript client; it needs Node.js
	cd $(TYPESCRIPT) && npm run --silent lint && npm test --silent

.PHONY: conformance
conformance: setup $(TYPESCRIPT)/node_modules/.package-lock.json ## Check all clients, and the server; ARGS="--case 'D2-*'"
	$(MAKE) -C clients/go driver
	cd $(TYPESCRIPT) && npm run --silent build
	$(CONFORMANCE_KIT) clients --client python --client go=clients/go/bin/conformance \
		--client 'typescript=node $(TYPESCRIPT)/build/src/conformance/driver.js' $(ARGS)
	$(CONFORMANCE_KIT) server --serve $(ARGS)

.PHONY: nightly
nightly: setup ## Test the delivery model with 10,000 random networks, some 10 minutes
	HYPOTHESIS_PROFILE=nightly $(BIN)/pytest --timeout=0 tests/robustness/test_model.py $(ARGS)

.PHONY: robustness
robustness: setup ## Exchange 100,000 messages each way over 1,000 random cuts; ARGS="--seed 7" repeats such a run
	$(BIN)/python -m tests.robustness.run $(ARGS)

.PHONY: soak
soak: setup ## Load a server for 10 minutes, and print what it holds and how long a bystander waits; ARGS="--minutes 2"
	$(BIN)/python -m tests.robustness.soak $(ARGS)

.PHONY: fuzz
fuzz: setup ## Fuzz the server with 10,000 sequences of requests, then what decodes them for 5 minutes
	HYPOTHESIS_PROFILE=nightly $(BIN)/pytest --timeout=0 tests/robustness/test_fuzz.py
	$(BIN)/python -m pip install --quiet --only-binary :all: atheris || \
		{ echo 'no wheel of atheris for this Python and machine: the second half is left out' >&2; exit 1; }
	$(BIN)/python -m tests.robustness.fuzz -max_total_time=300 $(ARGS)

.PHONY: bench
bench: setup $(BENCH_VENV)/.bench ## Measure beside bare gRPC, PyWebIO and websockets, some 8 minutes; QUICK=1: two, roughly
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(ARGS)

.PHONY: bench-guard
bench-guard: setup ## Fail if a message costs more calls, memory or writes than expected; UPDATE=1 expects what is now
	@$(BIN)/python -m bench.guard $(if $(UPDATE),--update)

.PHONY: lint
lint: setup ## Check style, types, the import rules, the protos, and for known vulnerabilities
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/hadolint Dockerfile
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive session_service clients/python
	@$(BIN)/python .ci/audit

.PHONY: format
format: setup ## Format the Python and the protos, and fix what ruff can fix
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	$(BIN)/buf format --write

.PHONY: generate
generate: setup $(PROTOS_VENV)/.protos $(TYPESCRIPT)/node_modules/.package-lock.json ## Generate what protos/ says, for all clients; it needs Go and Node.js
	rm -f $(GENERATED:=/*_pb2*)
	$(call protoc,.)
	$(MAKE) -C clients/go generate BUF=$(BIN)/buf
	$(BIN)/buf generate --template $(TYPESCRIPT)/buf.gen.yaml

.PHONY: check-generated
check-generated: setup $(PROTOS_VENV)/.protos $(TYPESCRIPT)/node_modules/.package-lock.json ## Fail if the generated code is not what protos/ says
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && $(call protoc,$$out) && \
	for folder in $(GENERATED); do \
		if ! diff -ru --exclude=__init__.py --exclude=__pycache__ $$folder "$$out/$$folder"; then \
			echo "$$folder is not what protos/ says: run \`make generate\` and commit the result." >&2; exit 1; \
		fi; \
	done
	$(MAKE) -C clients/go check-generated BUF=$(BIN)/buf
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	$(BIN)/buf generate --template $(TYPESCRIPT)/buf.gen.yaml --output "$$out" && \
	if ! diff -ru $(TYPESCRIPT)/src/gen "$$out/$(TYPESCRIPT)/src/gen"; then \
		echo "$(TYPESCRIPT)/src/gen is not what protos/ says: run \`make generate\` and commit the result." >&2; exit 1; \
	fi

ACCEPTED := protos/accepted.binpb
IMAGE = $(BIN)/buf build --exclude-path protos/session_service/examples --exclude-source-info --output

.PHONY: check-protos
check-protos: setup ## Fail if protos/ would break a client, or has changed and was not accepted
	$(BIN)/buf breaking --against $(ACCEPTED)
	@$(IMAGE) - | cmp --silent - $(ACCEPTED) || { \
		echo '$(ACCEPTED) is not what protos/ says: run `make accept-protos` and commit the result.' >&2; exit 1; }

.PHONY: accept-protos
accept-protos: setup ## Accept protos/ as it is, if it breaks nothing: what `make check-protos` compares with
	@test ! -e $(ACCEPTED) || $(BIN)/buf breaking --against $(ACCEPTED)
	$(IMAGE) $(ACCEPTED)

.PHONY: tools
tools: ## Find or install Go, Node.js, grpcurl, nginx and HAProxy, which some tests need
	@.ci/tools

.PHONY: clean
clean: ## Remove the environments and whatever else was made here
	rm -rf $(VENV) $(PROTOS_VENV) $(BENCH_VENV) .tools build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

CONFORMANCE_KIT := PYTHONPATH=clients/conformance $(BIN)/python -m session_conformance

# Directory $(1) gets the modules and, since protoc's own --pyi_out knows no services, typed stubs by mypy-protobuf.
protoc = $(PROTOC) --python_out=$(1) --mypy_out=quiet:$(1) $(PROTOS) $(EXAMPLE_PROTOS) && \
	$(PROTOC) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS) && \
	mkdir -p $(1)/clients/conformance && \
	$(call PROTOC_IN,$(CONFORMANCE)=protos/session_service/conformance/v1) --python_out=$(1)/clients/conformance \
		--mypy_out=quiet:$(1)/clients/conformance protos/session_service/conformance/v1/conformance.proto

PROTOC = $(call PROTOC_IN,protos)

PROTOC_IN = $(PROTOS_BIN)/python -m grpc_tools.protoc --proto_path=$(1) \
	--plugin=protoc-gen-mypy=$(PROTOS_BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(PROTOS_BIN)/protoc-gen-mypy_grpc

$(TYPESCRIPT)/node_modules/.package-lock.json: $(TYPESCRIPT)/package.json $(TYPESCRIPT)/package-lock.json
	cd $(TYPESCRIPT) && npm ci --silent
	@touch $@

# The stamps are newer than what they were made from, so a second `make setup` has nothing to do.
$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --group dev --editable .
	@touch $@

$(VENV)/.run: pyproject.toml $(VENV)/.pip
	$(BIN)/python -m pip install --quiet --editable '.[uvloop]'
	@touch $@

$(PROTOS_VENV)/.protos: pyproject.toml $(PROTOS_VENV)/.pip
	$(PROTOS_BIN)/python -m pip install --quiet --group protos
	@touch $@

$(BENCH_VENV)/.bench: pyproject.toml $(BENCH_VENV)/.pip
	$(BENCH_VENV)/bin/python -m pip install --quiet --group bench
	@touch $@

# Debian's Python has no ensurepip until python3-venv is installed, though it may have a pip that can install another.
# `--group` needs pip 25.1; Python 3.11 brings an older one.
%/.pip:
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
		$(PYTHON) -m venv $(@D); \
	else \
		$(PYTHON) -m venv --without-pip $(@D) && $(PYTHON) -m pip --python $(@D)/bin/python install --quiet pip; \
	fi
	@$(@D)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@
