# Each target is one step of .ci/run or of a day's work. ARGS is passed on: make test ARGS='-k raft -x'
.PHONY: help install install-dev demo test test-images chaos bench vm-test lint format proto unit wheel binary deb clean
.DEFAULT_GOAL := help
ROOT := $(if $(filter-out 0,$(shell id -u)),sudo)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: ## install what is missing: system packages (apt), .venv, Python packages
	@.ci/setup

install-dev: ## the same, and what the tests need
	@.ci/setup dev

demo: install ## a cluster on this machine, shown at work, and removed again; ARGS=--keep leaves it
	@$(if $(ROOT),echo "The demo makes network namespaces: running it with sudo")
	@$(ROOT) .venv/bin/swarmpy demo $(ARGS)

test: install-dev ## all fast tests; as root also those that make namespaces and containers
	@.venv/bin/pytest -m "not slow" $(ARGS)

test-images: install-dev ## slow: nginx, redis, postgres and a web application from a registry; made on the first run
	@$(ROOT) .venv/bin/pytest -m slow tests/integration/test_real_images.py tests/integration/test_real_images_alone.py $(ARGS)

unit: install-dev ## only the tests that need no root
	@.venv/bin/pytest -m "not slow and not root" $(ARGS)

chaos: install-dev ## ten minutes of faults on a real cluster, judged; ARGS='--minutes 60 --seed 7'
	@$(ROOT) .venv/bin/python -m tests.chaos $(ARGS)

bench: install-dev ## swarmpy beside Docker Swarm and etcd, where these are installed; ONLY=failover runs one
	@for name in $(or $(ONLY),service_start containers failover node_loss memory); do $(ROOT) .venv/bin/python -m bench.$$name $(ARGS) || exit 1; done

lint: install-dev ## ruff check, ruff format --check, mypy --strict
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: install-dev ## let ruff write the layout
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

proto: install-dev ## generate the protobuf code and record the field numbers
	.venv/bin/python -m grpc_tools.protoc -I.src --python_out=.src --pyi_out=.src --grpc_python_out=.src .src/swarmpy/proto/*.proto
	@for f in proto/*.proto; do grep -q '^service ' $$f || rm -f proto/$$(basename $$f .proto)_pb2_grpc.py; done
	.venv/bin/python tests/golden/descriptors.py

vm-test: install-dev ## stories on three virtual machines; builds what they need; ARGS='leader --keep'
	@.ci/setup vm
	@$(ROOT) .venv/bin/python -m vagrant.vmtest $(ARGS)

wheel: install-dev ## build the wheel into dist/
	.venv/bin/python -m hatchling build -t wheel

binary: install-dev ## swarmpy and its Python as one executable file, dist/swarmpy
	@.venv/bin/pip install -q --disable-pip-version-check 'pyinstaller>=6.10'
	.venv/bin/python .ci/package/binary.py

deb: install-dev ## the same as a Debian package, with man pages and completions
	@.venv/bin/pip install -q --disable-pip-version-check 'pyinstaller>=6.10'
	.venv/bin/python .ci/package/deb.py

clean: ## remove .venv and what tools left; no cluster is touched
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
