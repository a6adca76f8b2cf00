"""The fields of `--set`, known without importing torch: a mistake in them need not wait for it.

Read from the source of the methods and of `config.py`, as `catalogue` reads names. What cannot be read, such as a group
of a plugin or the values, is checked where the plan is made, in the same words.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from benchmark.errors import UserError, among, nearest

_ROOT = Path(__file__).resolve().parent.parent


def check_assignment(assignment: str) -> None:
    """Raise UserError for `group.field=value` with a group that is known here and a field that it does not have."""
    group, dot, rest = assignment.partition("=")[0].strip().partition(".")
    field = rest.partition(".")[0]
    if dot and field and field.isprintable():
        if group in ("recipe", "teacher_recipe") and field not in (known := recipe_fields()):
            raise UserError(f"recipe.{field}: unknown key{among(field, known)}")
        if (known := fields_by_group().get(group, ())) and field not in known:
            raise UserError(f"{group}.{field}: unknown{nearest(field, known) or ';'} {group} has {', '.join(known)}")


@cache
def recipe_fields() -> tuple[str, ...]:
    """Fields of a recipe."""
    return _fields("Recipe", _classes([_ROOT / "benchmark" / "config.py"]))


@cache
def fields_by_group() -> Mapping[str, tuple[str, ...]]:
    """Fields of the groups of hyperparameters that the project's methods have."""
    files = sorted((_ROOT / "distillers").glob("*.py"))
    classes = _classes(files)
    found = {}
    for node in (node for path in files for node in ast.walk(_parsed(path))):
        for group, parameters in _groups_of(node):
            if fields := _fields(parameters, classes):
                found[group] = fields
    return found


def _groups_of(node: ast.AST) -> Iterable[tuple[str, str]]:
    """(group, name of its class) that a statement says: a decorator's first text, `Modifier(...)`, or `groups = {...}`.

    A keyword such as `parameters=SDD` names the class of a modifier.
    """
    if isinstance(node, ast.ClassDef):
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant):
                yield str(call.args[0].value), node.name
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        for keyword in node.keywords:
            if keyword.arg == "parameters" and isinstance(keyword.value, ast.Name):
                yield str(node.args[0].value), keyword.value.id
    elif isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Dict):
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if isinstance(target, ast.Name) and target.id == "groups":
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Name):
                    yield str(key.value), value.id


def _fields(name: str, classes: Mapping[str, ast.ClassDef]) -> tuple[str, ...]:
    """Annotated names of a class, those of its bases first."""
    if name not in classes:
        return ()
    node = classes[name]
    inherited = [field for base in node.bases if isinstance(base, ast.Name) for field in _fields(base.id, classes)]
    own = [
        one.target.id
        for one in node.body
        if isinstance(one, ast.AnnAssign)
        and isinstance(one.target, ast.Name)
        and not ast.unparse(one.annotation).startswith("ClassVar")
    ]
    return tuple(dict.fromkeys([*inherited, *own]))


def _classes(files: Iterable[Path]) -> dict[str, ast.ClassDef]:
    return {node.name: node for path in files for node in _parsed(path).body if isinstance(node, ast.ClassDef)}


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
