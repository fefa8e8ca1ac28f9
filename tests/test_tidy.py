"""The house rules as a test: imports, purity, sizes, forbidden constructs, generated code."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("proto", "raft", "overlay", "node", "cli")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py") if "_pb2" not in path.name)
PURE_MODULES = {
    "raft": {"store", "tables", "view", "snapshot", "core", "core_leader", "core_log", "watch"},
    "overlay": {
        "wanted",
        "ipam",
        "rules",
        "policy",
        "seal",
        "wgcodec",
        "xfrmcodec",
        "nfcodec",
        "explain",
        "skeleton",
        "increment",
        "dnswire",
        "names",
        "nametable",
        "netlink",
    },
    "node.ca": {"authority", "rotation", "token", "access"},
    "node.manager": {"assignments", "policies"},
    "node.agent": {"machine", "provided", "policies", "pod", "probes", "grpc_health"},
    "node.runtime": {"spec", "spec_limits", "spec_seccomp"},
    "node.image": {"reference"},
    "node.volume": {"options"},
}
# node.ca makes keys and certificates: it may use the modules that do that.
PURE_EXCEPTIONS = {"node.ca.authority": {"datetime"}}
IMPURE = {
    "asyncio", "os", "socket", "time", "random", "uuid", "secrets", "datetime", "logging",
    "subprocess", "threading", "grpc", "pathlib", "shutil", "tempfile",
}  # fmt: skip
MAY_IMPORT = {
    "cli": {"proto", "cli"},
    "overlay": {"proto", "overlay"},
    "raft": {"proto", "raft"},
    "proto": {"proto"},
    "node.plan": {"proto", "raft.store", "raft.tables", "node.plan", "node.templates", "node.payloads"},
    "node.manager": {
        "proto", "raft", "node.plan", "node.ca", "node.manager", "node.config", "node.log", "node.items",
        "node.metrics", "node.templates", "node.payloads",
    },
    "node.agent": {
        "proto", "overlay", "node.runtime", "node.image", "node.volume", "node.ca", "node.agent",
        "node.config", "node.log", "node.items", "node.metrics", "node.templates", "node.payloads", "node.builds",
        "raft.levels",  # which state its managers would understand
    },
    "node.runtime": {"proto", "node.image", "node.volume", "node.runtime", "node.log"},
    "node.image": {"proto", "node.image", "node.log"},
    "node.volume": {"proto", "node.volume", "node.log"},
    "node.ca": {"proto", "node.ca", "node.log"},
    "node.items": {"proto"},
    "node.templates": {"proto"},
    "node.payloads": {"proto"},
}  # fmt: skip
WIRING = ("node.daemon", "node.demo")
# The few places where any error at all must become an answer instead of a dead process.
BROAD_EXCEPT_ALLOWED: dict[str, int] = {"raft.guard": 1, "node.manager.attempt": 1}
FORBIDDEN_CALLS = {"eval", "exec", "yaml.load", "os.fork", "pickle.loads", "marshal.loads"}
MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = 500


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    parts = module.split(".")
    two = ".".join(parts[:2])
    return two if two in MAY_IMPORT or parts[0] == "node" else parts[0]


def is_wiring(module: str) -> bool:
    return any(module == name or module.startswith((name + ".", name + "_")) for name in WIRING)


def is_pure(module: str) -> bool:
    if module.startswith("node.plan") or module in {"node.items", "node.templates", "node.payloads"}:
        return True
    package, _, name = module.rpartition(".")
    return name in PURE_MODULES.get(package, set())


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"relative import at line {node.lineno}"
            if node.module.startswith("swarmpy"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_house_rules(path: Path) -> None:
    module = module_of(path)
    text = path.read_text()
    tree = ast.parse(text)
    problems = [*size_problems(text, tree), *import_problems(module, tree), *construct_problems(module, tree)]
    assert not problems, "\n".join(f"{path.relative_to(ROOT)}: {problem}" for problem in problems)


def size_problems(text: str, tree: ast.AST) -> Iterator[str]:
    if (lines := text.count("\n")) > MAX_FILE_LINES:
        yield f"{lines} lines, the limit is {MAX_FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if (length := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES:
                yield f"{node.name} has {length} lines, the limit is {MAX_FUNCTION_LINES}"


def import_problems(module: str, tree: ast.AST) -> Iterator[str]:
    room = room_of(module)
    allowed = MAY_IMPORT.get(room, set())
    for name in imports_of(tree):
        if name.startswith("swarmpy."):
            target = name.removeprefix("swarmpy.")
            fits = any(target == a or target.startswith(a + ".") for a in allowed)
            own = target.startswith(module)
            lazy = module.startswith(("cli.daemon", "cli.demo")) and is_wiring(target)
            top = room.startswith("node.") and room not in MAY_IMPORT and not is_wiring(target)
            if not (fits or own or lazy or is_wiring(module) or (top and target.startswith("node."))):
                yield f"imports {target}, which {room} may not"
        root = name.split(".")[0]
        if root in {"pickle", "marshal", "shelve"}:
            yield f"imports {root}"
        if is_pure(module) and root in IMPURE and root not in PURE_EXCEPTIONS.get(module, set()):
            yield f"is pure but imports {root}"


def construct_problems(module: str, tree: ast.AST) -> Iterator[str]:
    broad = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            names = [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)] if node.type else [""]
            broad += any(name in {"", "Exception", "BaseException"} for name in names)
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) in FORBIDDEN_CALLS:
                yield f"calls {ast.unparse(node.func)} at line {node.lineno}"
            for keyword in node.keywords:
                if keyword.arg == "shell" and getattr(keyword.value, "value", None) is True:
                    yield f"uses shell=True at line {node.lineno}"
    if broad > BROAD_EXCEPT_ALLOWED.get(module, 0):
        yield f"{broad} broad excepts, allowed {BROAD_EXCEPT_ALLOWED.get(module, 0)}"


def test_generated_code_is_current(tmp_path: Path) -> None:
    """Regenerate the protobuf code and compare it with what is committed."""
    (tmp_path / "out").mkdir()
    protos = sorted((ROOT / "proto").glob("*.proto"))
    source = ROOT / ".src"
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{source}",
            f"--python_out={tmp_path}/out", f"--pyi_out={tmp_path}/out", f"--grpc_python_out={tmp_path}/out",
            *(str(source / "swarmpy" / "proto" / proto.name) for proto in protos),
        ],
        check=True,
    )  # fmt: skip
    fresh = {p.name: p.read_text() for p in (tmp_path / "out").rglob("*_pb2*")}
    for name, text in fresh.items():
        committed = ROOT / "proto" / name
        if (
            name.endswith("_grpc.py")
            and "\nservice " not in (ROOT / "proto" / name.replace("_pb2_grpc.py", ".proto")).read_text()
        ):
            continue
        assert committed.exists(), f"{name} is not committed: run `make proto`"
        assert committed.read_text() == text, f"{name} is stale: run `make proto`"


def test_descriptors_keep_their_numbers() -> None:
    """A renumbered, retyped or removed field breaks the golden dump."""
    spec = importlib.util.spec_from_file_location("descriptors", ROOT / "tests" / "golden" / "descriptors.py")
    assert spec is not None
    assert spec.loader is not None
    descriptors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(descriptors)
    known = set(descriptors.GOLDEN.read_text().splitlines())
    now = set(descriptors.lines())
    assert known <= now, f"fields changed or removed: {sorted(known - now)}"
    assert now <= known, f"new fields, run `make proto` to record them: {sorted(now - known)}"
