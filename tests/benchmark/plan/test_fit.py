"""Methods that cannot run on a pair are left out by name, and what a method adds to the student is counted."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmark import datasets
from benchmark.analysis.comparison import RUN_COLUMNS, comparison
from benchmark.datasets.base import DataSet, Known
from benchmark.errors import UserError
from benchmark.execution.options import Options
from benchmark.execution.survey import Survey
from benchmark.plan.fit import Fit, fit_of
from benchmark.plan.resolve import Plan, make_plan
from benchmark.plan.suite import load

PAIRS = ("vgg13:mobilenet_v2", "vgg13:vgg8")


def plan(*methods: str, pairs: tuple[str, ...] = PAIRS) -> Plan:
    return make_plan(load("cifar100"), methods=methods, pairs=pairs, seeds=2)


def fit(method: str, pair: str) -> Fit:
    return fit_of(plan(method, pairs=(pair,)).runs[0].config)


def test_a_method_that_does_not_fit_is_left_out_of_its_pair_only() -> None:
    made = plan("vanilla", "kd", "ofd")
    assert [str(one) for one in made.refused] == [
        "ofd cannot run on vgg13:mobilenet_v2: pre-activations are compared, and the student's stages end without an"
        " activation"
    ]
    planned = {(run.pair.name, run.config.method) for run in made.runs}
    assert ("vgg13:vgg8", "ofd") in planned and ("vgg13:mobilenet_v2", "ofd") not in planned
    assert ("vgg13:mobilenet_v2", "kd") in planned


@pytest.mark.parametrize(
    ("method", "pair", "reason"),
    [
        ("ofd", "vgg13:mobilenet_v2", "end without an activation"),
        ("reviewkd", "wrn_40_2:mobilenet_v2", "the student has 4, the teacher 3"),
        ("at", "vgg13:torchvision/resnet18", "feature methods are published for the networks of the CIFAR tables"),
    ],
)
def test_a_plan_of_nothing_is_a_mistake(method: str, pair: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"{method} cannot run on {pair}: .*{reason}.*; nothing else was chosen"):
        plan(method, pairs=(pair,))


def test_added_parameters() -> None:
    assert fit("sdd_kd", "vgg13:vgg8") == fit("at", "vgg13:vgg8") == Fit()
    assert fit("ctkd", "vgg13:vgg8") == Fit("", 1, 0)
    # two linear layers from 512 channels to 128, with biases
    assert fit("cc", "vgg13:vgg8") == Fit("", 2 * (512 * 128 + 128), 0)
    projector = 160 * 256 + 256 * 256 * 9 + 256 * 512 + 2 * (256 + 256 + 512)
    assert fit("simkd", "vgg13:mobilenet_v2") == Fit("", projector, projector + 512 * 100 + 100)


def test_what_fits_depends_on_the_size_of_the_images() -> None:
    """Sides of the last maps at 32 and 224 pixels: vgg 4 and 28, resnet50 4 and 14, resnet8x4 8 and 28."""
    of_cub = make_plan(load("cub"), methods=["kd", "mgd"], pairs=["resnet50:vgg8", "vgg13:resnet8x4"], seeds=1)
    assert [(one.pair, one.method) for one in of_cub.refused] == [("resnet50:vgg8", "mgd")]
    assert [(one.pair, one.method) for one in plan("kd", "mgd", pairs=("vgg13:resnet8x4",)).refused] == [
        ("vgg13:resnet8x4", "mgd")
    ]
    smaller = make_plan(
        load("folder"), methods=["kd", "mgd"], pairs=["vgg13:resnet8x4"], assignments=["data.image_size=32"]
    )
    assert [one.method for one in smaller.refused] == ["mgd"]


def test_the_batch_size_is_a_width_of_semckds_layers() -> None:
    small, large = (
        fit_of(make_plan(load("cifar100"), methods=["semckd"], pairs=["vgg13:vgg8"],
                         assignments=[f"recipe.batch_size={size}"]).runs[0].config).num_trained
        for size in (32, 64)
    )  # fmt: skip
    assert small < large


def test_of_images_that_are_not_known_before_they_are_read_they_decide(
    tmp_path: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain(root: Path) -> DataSet:
        return digits

    monkeypatch.setitem(datasets.registry._entries, "plain", plain)
    of = load("digits").model_copy(update={"data": {"name": "plain"}})
    made = make_plan(of, methods=["kd", "mgd"], pairs=["vgg13:resnet8x4"])
    assert datasets.known(made.data) == Known()
    assert not made.refused
    with pytest.raises(UserError, match="with images of 16 x 16 mgd cannot run on vgg13:resnet8x4: maps of equal size"):
        Survey(made, Options(tmp_path, tmp_path), digits, None)


def test_the_table_says_both() -> None:
    table = comparison(plan("vanilla", "ofd", "cc", "simkd"), pd.DataFrame(columns=list(RUN_COLUMNS)), {})
    shown = {(section.title, row.cells[0].text): row for section in table.sections for row in section.rows}
    headers = [column.header for column in table.columns]
    added, seeds = headers.index("added parameters"), headers.index("seeds")
    assert shown["vgg13:mobilenet_v2", "OFD"].cells[seeds].text == "cannot run"
    assert shown["vgg13:mobilenet_v2", "OFD"].fields["num_planned"] == 0
    assert str(shown["vgg13:mobilenet_v2", "OFD"].fields["cannot_run"]).startswith("pre-activations are compared")
    assert shown["vgg13:vgg8", "CC"].cells[added].text == "0.13 M"
    assert shown["vgg13:mobilenet_v2", "SimKD §"].cells[added].text == "0.76 M / 0.82 M"
    assert any(note.startswith("OFD cannot run on vgg13:mobilenet_v2: ") for note in table.notes)
    assert any(note.startswith("§ tested with more") for note in table.notes)
    without = comparison(plan("vanilla", "kd"), pd.DataFrame(columns=list(RUN_COLUMNS)), {})
    assert "added parameters" not in [column.header for column in without.columns]
