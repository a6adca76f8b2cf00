"""What the README promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_its_distiller_works_and_gets_its_scale_decoupled_form() -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    check = """
import torch, distillers
from distillers import Outputs
for name in ("reverse_kd", "sdd_reverse_kd"):
    distiller = distillers.create(name, reverse_kd={"temperature": 3})
    student = torch.randn(4, 21, 5, requires_grad=True)
    views = [{"weak": Outputs(z[:, 0], z)} for z in (student, torch.randn(4, 21, 5))]
    losses = distiller.losses(*views, torch.tensor([0, 1, 2, 3]), 1)
    sum(losses.values()).backward()
    assert student.grad.abs().sum() > 0
"""
    subprocess.run([sys.executable, "-c", code[1] + check], check=True, cwd=ROOT)


def test_every_make_target_and_command_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"make ([a-z]+)", README))
    assert named
    assert named <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


def test_every_file_it_links_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert all((ROOT / link).exists() for link in links)
