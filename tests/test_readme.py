"""What the README and the other pages promise."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import distillers
import models
from tests.distillers.batches import random_batch, used

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_its_distiller_works_and_gets_its_scale_decoupled_form(monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
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


def test_every_make_target_and_command_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"make ([a-z]+)", README))
    assert named
    assert named <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


def test_the_loop_of_the_architecture_page_trains() -> None:
    """On one batch instead of a data set, the student and both losses named in its comment."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    batch = torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 15])
    names: dict[str, Any] = {"epochs": 1, "loader": [batch]}
    exec(code[1].replace("import models\n", "import models\ntorch.manual_seed(0)\n"), names)
    torch.manual_seed(0)
    made = models.create("resnet8x4", num_classes=100, image_size=32)
    assert set(names["losses"]) == {"ce", "kd"}
    moved = [not torch.equal(a, b) for a, b in zip(made.parameters(), names["student"].parameters(), strict=True)]
    assert all(moved)


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
