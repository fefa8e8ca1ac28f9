.PHONY: proto lint unit
PY = .venv/bin/python
proto:
	$(PY) -m grpc_tools.protoc -I.src --python_out=.src --pyi_out=.src --grpc_python_out=.src .src/swarmpy/proto/*.proto
	@for f in proto/*.proto; do grep -q '^service ' $$f || rm -f proto/$$(basename $$f .proto)_pb2_grpc.py; done
	$(PY) tests/golden/descriptors.py
lint:
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy
