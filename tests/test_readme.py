"""What the README and the other pages promise."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import benchmark.__main__
import benchmark.perf.__main__
import benchmark.perf.load.__main__
import benchmark.perf.simulate.__main__
import benchmark.run
import benchmark.study
import distillers
import reports.__main__
from tests.distillers.batches import random_batch, used

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_its_distiller_works_and_gets_its_scale_decoupled_form(monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(# distillers/.*?)```", README, re.DOTALL)
    assert code is not None
    monkeypatch.setattr(distillers.registry, "_entries", {**distillers.registry._entries})
    file = ModuleType("reverse_kd")
    monkeypatch.setitem(sys.modules, file.__name__, file)
    exec(code[1], vars(file))
    for name in ("reverse_kd", "sdd_reverse_kd"):
        distiller = distillers.create(name, reverse_kd={"temperature": 3})
        student, teacher, target = random_batch(distiller)
        total = torch.stack(list(distiller.losses(student, teacher, target, 1).values())).sum()
        gradients = torch.autograd.grad(total, used(distiller, student))
        assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


#: modules that are commands, with their parsers
COMMANDS = {
    "benchmark": benchmark.__main__.parser,
    "benchmark.run": benchmark.run.parser,
    "benchmark.study": benchmark.study.parser,
    "benchmark.perf": benchmark.perf.__main__.parser,
    "benchmark.perf.load": benchmark.perf.load.__main__.parser,
    "benchmark.perf.simulate": benchmark.perf.simulate.__main__.parser,
    "reports": reports.__main__.parser,
}
#: modules of others, and of the tests
ELSEWHERE = {"pytest", "tests.fuzz", "tests.faults", "tests.faults.rehearse", "venv", "pip"}


def words_of(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a command and its subcommands, and the names of those."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                found |= {name, *words_of(inner)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_and_command_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    code = "\n".join(re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL))
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= targets
    for module, rest in re.findall(r"python -m ([a-z.]+)([^`|#;\n]*)", code):
        if module in ELSEWHERE:
            continue
        known = words_of(COMMANDS[module]())
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known, rest
        if module == "benchmark" and rest.split():
            assert rest.split()[0] in known, rest


def test_its_loop_trains_the_student_only() -> None:
    """On one batch instead of a data set."""
    loop = re.search(r"```python\n(import distillers\n.*?)```", README, re.DOTALL)
    assert loop is not None
    assert len(loop[1].splitlines()) <= 16
    names: dict[str, Any] = {"epochs": 1, "loader": [(torch.randn(4, 3, 96, 96), torch.tensor([3, 1, 4, 15]))]}
    torch.manual_seed(0)
    exec(loop[1], names)
    torch.manual_seed(0)
    made = names["torchvision"].models.resnet18(num_classes=100)
    pairs = zip(made.parameters(), names["student"].parameters(), strict=True)
    assert all(not torch.equal(before, after) for before, after in pairs)
    assert all(parameter.grad is None for parameter in names["teacher"].parameters())


#: what the loop needs of `distillers`, in a folder that has a `models` package of its own
IN_ANOTHER_REPOSITORY = """
import sys
from collections import OrderedDict
import torch
from torch import nn
import models
import distillers
assert models.OF_ANOTHER_REPOSITORY
layers = OrderedDict(conv=nn.Conv2d(3, 8, 3, padding=1), avgpool=nn.AdaptiveAvgPool2d(1),
                     fc=nn.Sequential(nn.Flatten(), nn.Linear(8, 10)))
network = distillers.adapt(nn.Sequential(layers), image_size=16)
seen = network.forward_features(torch.randn(4, 3, 16, 16)), network
distillers.loss("sdd_kd", scales=(1, 2))(seen, seen, torch.tensor([3, 1, 4, 1]), epoch=1).backward()
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("benchmark", "models")))
"""


@pytest.mark.processes
def test_a_repository_may_have_models_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("OF_ANOTHER_REPOSITORY = True\n")
    (tmp_path / "train.py").write_text(IN_ANOTHER_REPOSITORY)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['benchmark', 'benchmark.errors', 'benchmark.registry', 'models']"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_a_page_links_exists_and_its_lines_are_short(page: Path) -> None:
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith(("|", "    "))] == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert {page.name for page in PAGES if page.parent.name == "docs"} - {"README.md"} <= set(
        re.findall(r"\]\(([^)]+)\)", index)
    )
