"""The cost of every method: whose steps are timed, and what of a student's memory is counted."""

from __future__ import annotations

import pytest
import torch

import distillers
from benchmark.perf.base import Setting
from benchmark.perf.measurements import methods as module
from benchmark.perf.workload import Cohort, Pair, run_config

NAMES = ["kd", "mlkd", "srrl"]
SETTING = Setting(torch.device("cpu"), 1, quick=True, batch_size=4, image_size=16, num_classes=10)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three methods on small networks."""
    monkeypatch.setattr(module, "PAIR", Pair("resnet8", "resnet8_half"))
    monkeypatch.setattr(module, "in_order", lambda: NAMES)


def test_every_registered_method_that_fits_the_pair_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert sorted(module.in_order()) == distillers.names()
    monkeypatch.setattr(module, "PAIR", Pair("resnet8", "mobilenet_v2"))
    monkeypatch.setattr(distillers, "names", lambda: ["ofd", "sp", "sdd_kd"])
    assert module.in_order() == ["sdd_kd", "sp"]


def test_a_students_own_step_trains_it_alone() -> None:
    cohort = Cohort(SETTING, [run_config(module.PAIR, name) for name in NAMES])
    before = [lane.tested_weights() for lane in cohort.lanes]
    cohort.lane_steps()[1]()
    moved = [
        any(not torch.equal(value, lane.tested_weights()[name]) for name, value in weights.items())
        for lane, weights in zip(cohort.lanes, before, strict=True)
    ]
    assert moved == [False, True, False]


def test_steps_are_one_per_method_one_of_kd_with_its_teacher_and_one_of_all() -> None:
    tasks = module.tasks(SETTING)
    assert [*tasks] == [*NAMES, module.KD_ALONE, module.TABLE]
    for task in tasks.values():
        task()


def test_memory_counts_side_modules_with_gradient_and_momentum() -> None:
    kd, _, srrl = Cohort(SETTING, [run_config(module.PAIR, name) for name in NAMES]).lanes
    assert srrl.modules is not None
    trained = sum(parameter.nbytes for parameter in srrl.modules.parameters() if parameter.requires_grad)
    frozen = sum(parameter.nbytes for parameter in srrl.modules.parameters() if not parameter.requires_grad)
    buffers = sum(buffer.nbytes for buffer in srrl.modules.buffers())
    assert trained
    assert module.state_bytes(srrl) - module.state_bytes(kd) == 3 * trained + frozen + buffers


def test_memory_has_a_row_where_either_number_differs_from_kds() -> None:
    kd = module.Memory(state=2**20, kept=2**20)
    assert kd.words == "memory: a GiB holds 1024, in their steps 512"
    assert not kd.differs_from(kd)
    assert module.Memory(2**20 + 2**16, 2**20 - 2**16).differs_from(kd)  # as much in a step
    assert module.Memory(2**20, 2**20 + 2**17).differs_from(kd)
    assert not module.Memory(2**20, 2**20 + 2**15).differs_from(kd)


def test_memory_of_a_step_that_sees_two_views_is_twice_as_much() -> None:
    cohort = Cohort(SETTING, [run_config(module.PAIR, name) for name in NAMES])
    batch, shown = cohort.prepared(cohort.inputs)
    kd, mlkd, _ = (module.kept_bytes(lane, batch, shown) for lane in cohort.lanes)
    # the first convolution's output is kept, by itself 4 x 16 x 16 values of 4 bytes in 8 channels or more
    assert kd > 4 * 16 * 16 * 8 * 4
    assert 1.9 * kd < mlkd < 2.2 * kd
