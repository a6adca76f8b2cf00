"""The paper's Figures 3 to 5, by their parts and from a store."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save

from benchmark import datasets
from benchmark.datasets.base import DataSet
from benchmark.plan import suite
from benchmark.plan.resolve import make_plan
from benchmark.train import teacher_store
from benchmark.train.lane import create_network, weights_of
from reports.base import Context
from reports.sections import correlation as under_test
from reports.sections.correlation import (
    changes,
    changes_text,
    choose,
    correlation,
    correlation_difference,
    correlation_figure,
    images_figure,
    mean_difference,
    tsne,
    tsne_figure,
    tsne_places,
)
from tests.reports.frames import PAIR, check_drawn, context, drawings, plan, runs, words

DIGITS = "resnet8x2:resnet8_half"


def test_correlation_difference() -> None:
    teacher = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])  # correlation 1
    student = np.array([[1.0, 2.0], [2.0, 2.0], [3.0, 1.0]])  # -1 / sqrt(4/3)
    found = correlation_difference(teacher, student)
    assert found == pytest.approx(np.array([[0, -(0.75**0.5) - 1], [-(0.75**0.5) - 1, 0]]))
    assert mean_difference(found) == pytest.approx(1 + 0.75**0.5)
    constant = correlation_difference(teacher, np.array([[1.0, 2.0], [1.0, 4.0], [1.0, 3.0]]))
    assert np.isnan(mean_difference(constant))
    check_drawn(correlation_figure({"kd": found, "sdd_kd": constant}))
    check_drawn(correlation_figure({"kd": constant, "sdd_kd": constant}))


def test_changes_are_counted_both_ways() -> None:
    targets = np.array([0, 0, 1, 1, 1])
    kd = np.eye(2)[[0, 1, 1, 0, 0]]  # right: 0, 2
    sdd = np.eye(2)[[1, 0, 1, 1, 0]]  # right: 1, 2, 3
    found = changes(kd, sdd, targets)
    assert (found.gained.tolist(), found.lost.tolist()) == ([1, 3], [0])
    # 2 of 3 or more extreme, both ways: certain
    assert found.p == pytest.approx(1.0)
    text = changes_text(found, "here")
    assert "2 are right under SD-KD and wrong under KD, 1 are right under KD and wrong under SD-KD" in text
    none = changes(kd, kd, targets)
    assert none.p is None
    assert "0 are right under SD-KD" in changes_text(none, "here")


def test_tsne_is_bounded_and_seeded() -> None:
    targets = np.arange(3000) % 20
    places = tsne_places(targets)
    assert len(places) == 1000
    assert set(targets[places]) == set(range(10))
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(40, 5)), np.arange(40) % 4
    at = tsne(features)
    assert at.shape == (40, 2)
    assert np.array_equal(at, tsne(features))
    check_drawn(tsne_figure({"kd": at, "sdd_kd": at}, labels, ["a long name of some bird", "b$b", "c_c", "d"]))
    assert tsne(features[:3]).shape == (3, 2)


@pytest.mark.parametrize("num", [1, 6, 12])
def test_images(num: int) -> None:
    views = np.zeros((num, 8, 8, 3), dtype=np.uint8)
    check_drawn(images_figure(views, [("001.Black_footed_Albatross", "a$b")] * num))


def test_the_first_pair_with_a_shared_seed() -> None:
    other = "wrn_40_2:shufflenet_v1"
    made = plan(pairs=(PAIR, other))
    tracked = [*runs("kd", [75.0]), *runs("sdd_kd", [76.0], first=2)]
    assert choose(made, context(tracked, made).frame) is None
    tracked += [*runs("kd", [75.0] * 3, pair=other, name="o"), *runs("sdd_kd", [76.0], pair=other, first=2, name="p")]
    found = choose(made, context(tracked, made).frame)
    assert found is not None
    assert (found.pair.name, found.repetition) == (other, 2)
    assert (found.base_run, found.decoupled_run) == ("o-shufflenet_v1-2", "p-shufflenet_v1-2")


class Store:
    """A tracker that holds one file of each run."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def named_errors(self) -> Any:
        return nullcontext()

    def download(self, run_id: str, folder: Path) -> None:
        if run_id in self.files:
            (folder / "student.safetensors").write_bytes(self.files[run_id])


@pytest.fixture
def made(tmp_path: Path, digits: DataSet) -> Context:
    digits_plan = make_plan(
        suite.load("digits"), profile="smoke", methods=("kd", "sdd_kd"), assignments=["data.num_test=60"]
    )
    data = datasets.load(digits_plan.data, tmp_path, tmp_path)
    network = create_network("resnet8x2", data.num_classes, data.image_size, seed=7)
    about = {"test_top1": 10.0, "device": "a CPU", "origin": "trained", "signature": "0" * 16}
    _, manifest = teacher_store.store(tmp_path / "teachers", data, "resnet8x2", weights_of(network), **about)  # type: ignore[arg-type]
    tracked = [*runs("kd", [10.0], pair=DIGITS), *runs("sdd_kd", [11.0], pair=DIGITS)]
    files = {
        run.run_id: save(weights_of(create_network("resnet8_half", data.num_classes, data.image_size, seed=seed)))
        for seed, run in enumerate(tracked)
    }
    given = context(tracked, digits_plan)
    return replace(
        given,
        runs=tmp_path,
        data_root=tmp_path,
        teachers={"resnet8x2": manifest},
        tracker=Store(files),  # type: ignore[arg-type]
    )


def test_from_a_store(made: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "tsne", lambda features: features[:, :2])
    blocks = correlation(made)
    found = drawings(blocks)
    assert {"logit_correlation", "features"} <= set(found)
    for figure in found.values():
        check_drawn(figure)
    assert "all 60 test images" in words(blocks)


def test_what_is_missing_is_said(made: Context) -> None:
    assert not correlation(context())
    assert "the teacher resnet8x2 is not stored" in words(correlation(replace(made, teachers={})))
    assert "without its tracking store" in words(correlation(replace(made, tracker=None)))
    no_file: Any = Store({})
    assert "has no artifact student.safetensors" in words(correlation(replace(made, tracker=no_file)))
    damaged: Any = Store({run.run_id: b"no weights" for run in made.tracked})
    assert "does not fit resnet8_half" in words(correlation(replace(made, tracker=damaged)))
