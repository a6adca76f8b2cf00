"""What `docs/extending.md` promises: each of its blocks is a whole file, held to its contract once it exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("extending")]

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "extending.md").read_text()
#: the files of the examples
BLOCKS = {
    path: code
    for code, path in re.findall(r"```(?:python|yaml)\n(# (\S+)\n.*?)```", TEXT, re.DOTALL)
    for path in [path]
}
PACKAGES = ("benchmark", "distillers", "models", "reports", "studies", "tests")
#: what is registered, each tested by at least so many contracts
NAMES = {"cosine]": 3, "sdd_cosine": 3, "swap_kd": 3, "sdd_swap_dkd": 3, "swap_mlkd": 3, "embedding_hint": 3,
         "exposure": 3,
         "plain4": 3, "stripes": 5, "cosine_weight": 5, "failures": 5, "threads": 1}  # fmt: skip

#: for what no contract runs over
CHECKS = """
import torch
from pathlib import Path
import distillers
from benchmark import datasets
from benchmark.analysis import published
from benchmark.config import Recipe
from benchmark.datasets import views
from benchmark.execution import engines
from benchmark.perf import measurements
from benchmark.perf.base import Setting
from benchmark.train.batches import TrainStream
from reports import sections
from tests.conftest import make_config, make_job
from tests.reports import frames


def test_titles_and_bases() -> None:
    shown = {name: distillers.registry.get(name) for name in distillers.names("*swap_*")}
    assert set(shown) == {f"{sdd}swap_{base}" for sdd in ("", "sdd_") for base in ("kd", "dkd", "mlkd")}
    assert (shown["swap_kd"].title, shown["swap_kd"].base, shown["sdd_swap_kd"].base) == ("KD+Swap", "kd", "swap_kd")


def test_rows_printed_by_title_are_found_by_key() -> None:
    value = published.lookup(["cosine/table1"], "vgg13:vgg8", "cosine")
    assert value is not None and value.value == 73.1
    assert "ls_kd" in published.load("lskd/homogeneous").rows


def test_view() -> None:
    data = datasets.create("stripes", Path())
    members, device = torch.arange(64), torch.device("cpu")
    stream = TrainStream(data, data.train, members, Recipe(), 0, ("weak", "exposure"), device)
    batch = next(iter(stream.epoch(1)))
    assert not torch.equal(batch.views["exposure"], batch.views["weak"])
    alter = views.registry.get("exposure")(64, 8, 0, 1)
    grey = alter(torch.full((8, 3, 8, 8), 100, dtype=torch.uint8), slice(8, 16)).flatten(1)
    assert (grey == grey[:, :1]).all() and len(set(grey[:, 0].tolist())) > 4
    assert 50 <= grey.min() < 100 < grey.max() <= 150


def test_section() -> None:
    assert sections.in_order()[-1].name == "failures"
    failed = frames.runs("kd", [0.0], status="FAILED")
    (listing,) = sections.in_order()[-1].make(frames.context(failed))
    assert listing.table.sections[0].rows[0].cells[0].text == "kd"
    assert sections.in_order()[-1].make(frames.context()) == []


def test_engine(tmp_path: Path) -> None:
    engine = engines.registry.get("threads")(2, lambda: False)
    for name in ("one", "two"):
        engine.submit(make_job(tmp_path / name, {"vanilla": make_config(recipe={"epochs": 1})}))
    kinds = [type(event).__name__ for _, event in engine.events()]
    engine.close()
    assert kinds.count("LaneFinished") == kinds.count("CohortEnded") == 2


def test_measurement() -> None:
    (row,) = measurements.in_order()[-1].measure(Setting(torch.device("cpu"), 1, quick=True))
    assert row.label == "KD" and row.rounds >= 3
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Counter[str]]:
    """The contracts of the examples in a copy of the project that has their files: its output, and what passed."""
    copy = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package)  # with what is compiled
    shutil.copy(ROOT / "pyproject.toml", copy)
    for path, code in BLOCKS.items():
        assert not (copy / path).exists(), f"{path} is a file of the project: give the example another name"
        (copy / path).write_text(code)
    (copy / "tests" / "test_examples.py").write_text(CHECKS)
    # an engine's bits take as long as all the rest: CHECKS trains one cohort
    wanted = " or ".join(
        ["test_examples", "test_a_method_has_one_spelling", "test_reading_equals", *(name.strip("]") for name in NAMES)]
    )
    names = f"({wanted}) and not bit_equal"
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "--junitxml=found.xml",
               "-k", names, "tests/contracts", "tests/test_examples.py"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=environment)
    cases = ET.parse(copy / "found.xml").getroot().iter("testcase") if (copy / "found.xml").exists() else ()
    passed = [case.attrib["name"] for case in cases if not len(case)]
    return done, Counter(name for test in passed for name in [*NAMES, "test_"] if name in test)


def test_every_kind_is_one_whole_file() -> None:
    kinds = re.findall(r"^## (?!Outside the clone)(.+)$", TEXT, re.MULTILINE)
    assert len(BLOCKS) == len(kinds) == len(re.findall(r"^\| an? |^\| published", TEXT, re.MULTILINE))
    assert all(str(Path(path).parent) + "/`" in TEXT for path in BLOCKS)


def test_examples_pass_their_contracts(
    outcome: tuple[subprocess.CompletedProcess[str], Counter[str]],
) -> None:
    done, passed = outcome
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert {name: passed[name] for name in NAMES if passed[name] < NAMES[name]} == {}
