"""The direction of imports, derived from the source: rooms stand on floors, and an import only ever goes down."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

#: they read every file once
pytestmark = pytest.mark.xdist_group("architecture")

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("benchmark", "distillers", "models", "reports", "studies")

#: from the top down. A room is a package, a folder of `benchmark`, or a loose file of it; folders of plug-ins
#: (`studies/questions`, `reports/sections`, ...) belong to the room around them. Rooms of one floor do not import
#: each other. `benchmark/study.py` is the door: the command's name is fixed, and the machinery is in `studies`
FLOORS: tuple[tuple[str, ...], ...] = (
    ("benchmark/__main__.py", "benchmark/run.py", "benchmark/study.py"),
    ("benchmark/commands",),
    ("studies", "reports", "benchmark/perf", "benchmark/doctor"),
    ("benchmark/command_line.py",),
    ("benchmark/bundles",),
    ("benchmark/execution",),
    ("benchmark/train", "benchmark/analysis", "benchmark/results.py"),
    ("benchmark/plan", "benchmark/tracking.py"),
    ("benchmark/datasets",),
    ("benchmark/config.py", "benchmark/known_runs.py", "benchmark/logs.py", "benchmark/saved_views.py"),
    ("models",),
    ("distillers",),
    ("benchmark/plugins.py",),
    ("benchmark/catalogue.py", "benchmark/hyperparameters.py", "benchmark/machine.py"),
    (
        "benchmark/databases.py",
        "benchmark/registry.py",
        "benchmark/files.py",
        "benchmark/plain_yaml.py",
        "benchmark/process.py",
        "benchmark/randomness.py",
    ),
    ("benchmark/errors.py", "benchmark/__init__.py"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


@cache
def modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def import_statements(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """The import statements of a file, at its top or later."""
    return tuple(
        node for node in statements(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    )


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Everything below a node that is not in an expression, where no statement is."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child
            yield from statements(child)


@cache
def imports() -> dict[str, frozenset[str]]:
    """The modules of ours that each module imports, at its top or later."""
    found = {}
    for name, path in modules().items():
        wanted = set()
        for node in import_statements(path):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            else:
                assert node.level == 0, f"{path}: imports are absolute"
                wanted |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[name] = frozenset(module for one in wanted if (module := _module(one)) and module != name)
    return found


def _module(name: str) -> str:
    """The module that a dotted name lies in; "" for one that is not ours."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name


def room(module: str) -> str:
    parts = modules()[module].relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "benchmark" else parts[0]


def arrows() -> dict[tuple[str, str], list[str]]:
    """The imports between rooms: (from, to) -> the modules that import."""
    found = defaultdict(list)
    for module, wanted in imports().items():
        for one in wanted:
            if room(one) != room(module):
                found[room(module), room(one)].append(f"{module} imports {one}")
    return found


def test_every_room_has_a_floor_and_every_floor_its_rooms() -> None:
    assert {room(module) for module in modules()} == set(FLOOR_OF)


def test_imports_only_go_down() -> None:
    upward = {
        arrow: whose
        for arrow, whose in arrows().items()
        if arrow[0] in FLOOR_OF and FLOOR_OF[arrow[0]] >= FLOOR_OF[arrow[1]]
    }
    assert upward == {}


def test_the_foundation_imports_only_the_standard_library() -> None:
    """So that `distillers` and `models`, which nothing of the harness may reach, can use it."""
    for name in ("benchmark.errors", "benchmark.registry"):
        for node in import_statements(modules()[name]):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {one.partition(".")[0] for one in names} <= {*_standard_library(), "benchmark"}
    below = {"benchmark.errors", "benchmark.registry"}
    for module, wanted in imports().items():
        if room(module) in ("distillers", "models"):
            assert {one for one in wanted if one.startswith("benchmark")} <= below, module


def _standard_library() -> frozenset[str]:
    import sys

    return sys.stdlib_module_names


def test_modules_do_not_import_in_circles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " imports ".join([*path[path.index(module) :], module])
        if module not in done:
            for one in sorted(imports()[module]):
                visit(one, (*path, module))
            done.add(module)

    for module in modules():
        visit(module, ())


@pytest.mark.parametrize("outsider", ["mlflow", "optuna"])
def test_one_importer(outsider: str) -> None:
    """MLflow is behind `benchmark/tracking.py`, Optuna inside `studies`."""
    homes = {"mlflow": {"benchmark/tracking.py"}, "optuna": {"studies"}}
    found = set()
    for name, path in modules().items():
        for node in import_statements(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(one.partition(".")[0] == outsider for one in names):
                found.add(room(name))
    assert found == homes[outsider]
