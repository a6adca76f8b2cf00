"""Timing with clocks that are told what to show, and ratios of samples that are known."""

from __future__ import annotations

import pytest
import torch

from benchmark.perf.base import counted, throughput, timed
from benchmark.perf.counting import count
from benchmark.perf.measure import (
    CpuStopwatch,
    Samples,
    cpu_seconds,
    interleaved,
    machine_busy_seconds,
    quartiles,
    ratio,
)


class Clock:
    """Wall and CPU time that only tasks move."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.calls: list[str] = []

    def task(self, name: str, wall: list[float], cpu: float = 0.0, elsewhere: float | None = None):  # type: ignore[no-untyped-def]
        """A task whose n-th call takes wall[n] seconds, the last from then on."""
        taken = iter(range(10_000))

        def run() -> float | None:
            self.calls.append(name)
            self.wall += wall[min(next(taken), len(wall) - 1)]
            self.cpu += cpu
            return elsewhere

        return run

    def watch(self) -> CpuStopwatch:
        return CpuStopwatch(lambda: self.wall, lambda: self.cpu)


def test_tasks_take_turns_and_warm_up_uncounted() -> None:
    clock = Clock()
    tasks = {"a": clock.task("a", [100, 2, 3, 4], cpu=1), "b": clock.task("b", [50, 1], cpu=0.5)}
    found = interleaved(tasks, seconds=0, watch=clock.watch(), warmup=1, min_rounds=3)
    assert clock.calls == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert found["a"] == Samples((2, 3, 4), (1, 1, 1))
    assert found["b"] == Samples((1, 1, 1), (0.5, 0.5, 0.5))


def test_rounds_go_on_until_the_time_is_up() -> None:
    clock = Clock()
    tasks = {"a": clock.task("a", [2]), "b": clock.task("b", [1])}
    assert len(interleaved(tasks, seconds=13, watch=clock.watch(), min_rounds=2)["a"].wall_s) == 5
    assert len(interleaved(tasks, seconds=1, watch=clock.watch(), min_rounds=2)["b"].wall_s) == 2


def test_cpu_time_of_other_processes_is_added() -> None:
    clock = Clock()
    spent = clock.watch().time(clock.task("a", [2], cpu=1, elsewhere=5))
    assert (spent.wall_s, spent.cpu_s) == (2, 6)


def test_a_real_clock_sees_the_work_of_a_process() -> None:
    x = torch.rand(200, 200)

    def work() -> None:
        for _ in range(20):
            x @ x

    spent = CpuStopwatch().time(work)
    assert spent.wall_s > 0
    assert spent.cpu_s > 0


def test_the_machine_is_at_least_as_busy_as_this_process() -> None:
    busy, own = machine_busy_seconds(), cpu_seconds()
    if not busy:
        pytest.skip("this machine does not say how busy it is")
    while cpu_seconds() - own < 0.5:
        pass
    after = machine_busy_seconds()
    assert after is not None
    assert after - busy > 0.375  # it counts in ticks of the clock


def test_ratios_of_known_samples() -> None:
    first = Samples((10, 12, 20, 11, 13), (20, 20, 20, 20, 22))
    second = Samples((5, 4, 4, 5.5, 6.5), (10, 5, 8, 8, 9))
    found = ratio(first, second)
    assert found.medians == 12 / 5
    assert (found.low, found.high) == (2, 3)  # of 2, 3, 5, 2, 2
    assert found.minima == 10 / 4
    assert found.cpu == 20 / 8
    assert ratio(first, Samples(second.wall_s, (0,) * 5)).cpu is None
    assert quartiles([7.0]) == (7.0, 7.0)
    with pytest.raises(ValueError, match="shorter"):
        ratio(first, Samples((1, 2), (1, 2)))


def test_rows_are_per_portion_of_the_work() -> None:
    samples = Samples((4.0, 2.0, 6.0), (8.0, 8.0, 8.0)), Samples((1.0, 2.0, 1.0), (1.0, 1.0, 1.0))
    row = timed("cohort", *samples, portions=4)
    assert (row.reference.median, row.reference.best, row.reference.cpu_s) == (1.0, 0.5, 2.0)
    assert (row.ours.median, row.rounds) == (0.25, 3)
    assert row.ratio is not None
    assert row.ratio.medians == 4
    rate = throughput("loader", *samples, images=100)
    assert (rate.reference.median, rate.reference.best, rate.ours.median) == (25, 50, 100)
    assert rate.ratio == row.ratio


def test_nothing_left_has_no_ratio() -> None:
    assert counted("reads", "host reads", 7, 0).ratio is None
    found = counted("operators", "operators", 6, 4).ratio
    assert found is not None
    assert found.medians == 1.5


def reads(task: object) -> dict[str, int]:
    assert callable(task)
    return dict(count(task).host_reads)


def test_planted_host_reads_are_counted() -> None:
    x = torch.arange(6.0)
    mask = x > 2
    assert reads(lambda: x.sum().item()) == {"aten::_local_scalar_dense": 1}
    assert reads(lambda: bool(mask.any())) == {"aten::_local_scalar_dense": 1}
    assert reads(lambda: f"{x[0]:.3f}") == {"aten::_local_scalar_dense": 1}
    assert reads(mask.nonzero) == {"aten::nonzero": 1}
    assert reads(lambda: x[mask]) == {"aten::index by a mask": 1}
    assert reads(lambda: x.clone().__setitem__(mask, torch.zeros(3))) == {"aten::index_put_ by a mask": 1}
    assert reads(lambda: x.cpu().numpy()) == {"Tensor.cpu": 1}
    assert reads(x.tolist) == {"Tensor.tolist": 1}


def test_what_a_device_does_by_itself_is_no_host_read() -> None:
    x = torch.arange(6.0)

    def work() -> None:
        y = torch.where(x > 2, x, 0).index_select(0, torch.tensor([1, 2]))
        y = x[torch.tensor([0, 3])] + y
        y.clone()[y > 2] = 0.0  # a masked fill
        y.add_(1).log_softmax(0)

    found = count(work)
    assert not found.host_reads
    assert found.operators >= 10


def test_a_read_in_the_backward_pass_is_counted() -> None:
    x = torch.rand(4, requires_grad=True)
    mask = torch.tensor([True, False, True, True])
    loss = x[mask].sum()
    assert reads(loss.backward) == {"aten::index_put by a mask": 1}
