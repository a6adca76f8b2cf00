"""The estimate is measured, and adds up as training does."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmark import machine
from benchmark.config import Data
from benchmark.datasets import create
from benchmark.datasets.base import DataSet
from benchmark.datasets.image_files import FileImages
from benchmark.errors import UserError
from benchmark.execution import speeds
from benchmark.execution.estimate import Costs, refuse_slow_bf16
from benchmark.execution.options import Options
from benchmark.execution.speeds import NOTHING, Speed
from benchmark.execution.survey import Survey
from benchmark.plan.resolve import make_plan
from benchmark.plan.suite import Suite
from tests.benchmark.datasets.test_folder import write
from tests.conftest import SMALL_SUITE, make_config

CPU = torch.device("cpu")


@pytest.fixture
def costs(digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> Costs:
    """Round figures: a teacher's pass takes 1 s an image, a student's step 10 s and its pass 0.1 s."""
    made = Costs(digits, CPU, threads=1)
    monkeypatch.setattr(made, "speed", lambda model, batch_size: {"resnet8_half": Speed(0.1, 10.0)}[model])
    monkeypatch.setattr(made, "teacher_s", lambda config, batch_size: {"resnet8": 1.0}[config.teacher])
    monkeypatch.setattr(made, "method", lambda config: NOTHING)
    return made


def test_a_cohort_costs_one_teacher_pass_per_view_and_every_lane(costs: Costs) -> None:
    student, evaluation, teacher_once = 80 * 10.0, 60 * 0.1, 60 * 1.0
    assert costs.cohort_s([make_config()]) == pytest.approx(2 * (student + evaluation))
    kd = costs.cohort_s([make_config("kd")])
    assert kd == pytest.approx(2 * (student + evaluation + 80) + teacher_once)
    four = costs.cohort_s([make_config("kd"), make_config("sdd_kd"), make_config("dkd"), make_config()])
    assert four == pytest.approx(2 * (4 * (student + evaluation) + 80) + teacher_once)
    mlkd = costs.cohort_s([make_config("mlkd")])
    assert mlkd == pytest.approx(2 * (2 * student + evaluation + 2 * 80) + teacher_once)


def test_stored_views_cost_no_teacher(costs: Costs) -> None:
    """In two epochs, each of an image's 25 views is new but for one time in 25 in the second; strong views always."""
    kd, mlkd = make_config("kd"), make_config("mlkd")
    cached = [config.model_copy(update={"teacher_cache": "fp16"}) for config in (kd, mlkd)]
    assert costs.cohort_s([kd]) - costs.cohort_s([cached[0]]) == pytest.approx(80 / 25)
    assert costs.cohort_s([mlkd]) - costs.cohort_s([cached[1]]) == pytest.approx(80 / 25)


def test_what_is_done_or_not_evaluated_costs_nothing(costs: Costs) -> None:
    config = make_config()
    assert costs.cohort_s([config], epochs_done=1) == pytest.approx(costs.cohort_s([config]) / 2)
    rarely = costs.cohort_s([config.model_copy(update={"eval_every": 2})])
    assert rarely == pytest.approx(2 * (80 * 10.0 + 30 * 0.1))
    tuned = costs.cohort_s([make_config(data=Data(name="digits", num_train=80, num_test=60, val_fraction=0.1))])
    assert tuned == pytest.approx(2 * (80 * 10.0 + 460 * 0.1))


def test_a_streamed_data_set_waits_for_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU decoding takes the cores from training; a GPU trains meanwhile."""
    write(tmp_path / "birds", count=40)
    options = {"path": "birds", "image_size": 28, "memory_gb": 0.0, "num_workers": 0}
    data = create("folder", tmp_path, **options)
    assert isinstance(data.train, FileImages)
    config = make_config(data=Data(name="folder"))
    for device, expected in (("cpu", 2 * (80 + 40 + 160 / 10)), ("cuda", 2 * (80 + 40))):
        costs = Costs(data, torch.device(device), threads=1)
        monkeypatch.setattr(costs, "speed", lambda model, batch_size: Speed(0.5, 1.0))
        rate = costs.loader_images_per_s()
        assert rate is not None
        assert 10 < rate < 1e6
        assert costs.loader_images_per_s() == rate
        monkeypatch.setattr(costs, "_loader_rate", 10.0)
        assert costs.cohort_s([config]) == pytest.approx(expected)


def test_speeds_are_measured_once_and_leave_threads_alone(digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Costs(digits, CPU, threads=1)
    before = torch.get_num_threads()
    speed = measured.speed("resnet8_half", 64)
    assert 0 < speed.forward_s < 0.1 and 0 < speed.train_s < 0.1
    assert torch.get_num_threads() == before
    teacher_s = measured.teacher_s(make_config("kd"), 64)
    assert 0 < teacher_s < 0.1
    simkd = make_config("simkd", recipe={"batch_size": 8})
    method = measured.method(simkd)
    assert 0 < method.forward_s < 0.1 and 0 < method.train_s < 0.1, "it is tested with its side modules"
    for once in ("of_network", "of_teacher", "of_method"):
        monkeypatch.setattr(speeds, once, lambda *_: pytest.fail("measured twice"))
    assert measured.speed("resnet8_half", 64) == speed
    assert measured.teacher_s(make_config("kd"), 64) == teacher_s
    assert measured.method(simkd) == method
    assert measured.method(make_config()) == measured.method(make_config("sdd_kd")) == NOTHING


def test_what_a_method_adds_is_its_loss_back_to_both_side_modules_and_student(
    digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step that is timed trains the side modules on a loss whose gradient reaches the student's maps."""
    made, reached = [], []
    create, grad = speeds.create_modules, torch.autograd.grad
    monkeypatch.setattr(
        speeds, "create_modules", lambda *given, **named: made.append(create(*given, **named)) or made[0]
    )
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *given, **named: reached.append(grad(*given, **named)) or reached[-1]
    )
    moved: list[bool] = []

    def timed(step: Callable[[], None], device: torch.device) -> float:
        before = [parameter.clone() for parameter in made[0].parameters()]
        step()
        moved.extend(not torch.equal(a, b) for a, b in zip(before, made[0].parameters(), strict=True))
        return 8.0

    monkeypatch.setattr(speeds, "_time", timed)
    config = make_config("fitnet", recipe={"batch_size": 4})
    assert Costs(digits, CPU, threads=1).method(config) == Speed(0.0, 2.0)
    assert moved and all(moved)
    of_student = reached[0][len(moved) :]
    assert any(gradient.ndim == 4 and gradient.abs().sum() > 0 for gradient in of_student)


def test_what_a_method_adds_is_part_of_the_estimate(costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once per image that is trained on, or tested; and with feature maps no stored view spares the teacher."""
    plain, cached = costs.cohort_s([make_config("simkd")]), make_config("kd", teacher_cache="fp16")
    spared = costs.cohort_s([cached])
    monkeypatch.setattr(costs, "method", lambda config: Speed(3.0, 5.0) if config.method == "simkd" else NOTHING)
    assert costs.cohort_s([make_config("simkd")]) == pytest.approx(plain + 2 * (80 * 5 + 60 * 3))
    both = costs.cohort_s([cached, make_config("simkd", teacher_cache="fp16")])
    assert both == pytest.approx(spared + 80 / 25 + 2 * (80 * (10 + 5) + 60 * (0.1 + 3)))


def test_a_pair_that_does_not_fit_is_left_to_the_training(digits: DataSet) -> None:
    config = make_config("ofd", student="mobilenet_v2")
    assert Costs(digits, CPU, threads=1).method(config) == NOTHING


@pytest.mark.parametrize(
    ("assignment", "slowdown", "forced", "refused"),
    [
        (
            "teacher_precision=bf16",
            5.57,
            False,
            "teacher_precision=bf16: on this CPU (AVX2) a convolution takes 5.6 times",
        ),
        ("precision=bf16", 5.57, False, "precision=bf16: on this CPU (AVX2) a convolution takes 5.6 times"),
        ("teacher_precision=bf16", 0.5, False, None),
        ("teacher_precision=bf16", 5.57, True, None),
        ("teacher_precision=fp32", 5.57, False, None),
    ],
)
def test_bf16_is_refused_where_it_is_slower_unless_it_is_forced(
    assignment: str,
    slowdown: float,
    forced: bool,
    refused: str | None,
    tmp_path: Path,
    digits: DataSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "bf16_slowdown", lambda: slowdown)
    monkeypatch.setattr(machine, "cpu_capability", lambda: "AVX2")
    plan = make_plan(Suite(name="small", **SMALL_SUITE), assignments=[assignment])
    survey = Survey(plan, Options(tmp_path, tmp_path, force_bf16=forced), digits, tracker=None)
    survey.look()
    with pytest.raises(UserError, match=re.escape(refused)) if refused else contextlib.nullcontext():
        refuse_slow_bf16(survey)


def test_bf16_is_measured_against_fp32_on_one_layer_and_leaves_threads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the fastest of some passes of each, on one thread; what another process does to the others does not count."""
    spent, threads = {torch.bfloat16: [9, 3, 2, 8, 7], torch.float32: [4, 6, 5, 99, 4]}, torch.get_num_threads()
    now, forward, used = 0.0, torch.nn.Conv2d.forward, set()

    def pass_of(layer: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += 50 if x.dtype not in seen else spent[x.dtype].pop()  # the first, which warms up, is not timed
        seen.add(x.dtype)
        used.add(torch.get_num_threads())
        return forward(layer, x)

    seen: set[torch.dtype] = set()
    monkeypatch.setattr(torch.nn.Conv2d, "forward", pass_of)
    monkeypatch.setattr(machine.time, "thread_time", lambda: now)
    assert machine.bf16_slowdown.__wrapped__() == 2 / 4
    assert (used, torch.get_num_threads()) == ({1}, threads)
    assert spent == {torch.bfloat16: [], torch.float32: []}


def test_the_instruction_set_of_the_cpu_is_torchs() -> None:
    assert machine.cpu_capability() == torch.backends.cpu.get_cpu_capability()
