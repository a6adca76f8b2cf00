"""Every method's cost, relative to KD's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import distillers
from benchmark.analysis.methods import title_of
from benchmark.datasets.base import Known
from benchmark.perf.apart import apart
from benchmark.perf.base import Setting, SideBySide, counted, measurement, timed
from benchmark.perf.measure import Samples, Task
from benchmark.perf.workload import PAIRS, Cohort, run_config
from benchmark.plan.fit import fit_of
from benchmark.train.batches import Batch
from benchmark.train.heads import Request
from benchmark.train.lane import Lane
from distillers import Outputs

PAIR = PAIRS[0]
MIB = 2**20
#: memory that differs from KD's by less than this share has no row
SAME_MEMORY = 0.05
#: names of the tasks that are no method's
KD_ALONE, TABLE = "KD alone", "whole table"


class Memory(NamedTuple):
    """Bytes of a student."""

    #: between steps: weights, buffers, and gradient and momentum of what is trained
    state: int
    #: by a step until its backward pass
    kept: int

    @property
    def in_step(self) -> int:
        """Bytes in the student's step."""
        return self.state + self.kept

    @property
    def words(self) -> str:
        """How many such students fit in a GiB."""
        return f"memory: a GiB holds {2**30 // self.state}, in their steps {2**30 // self.in_step}"

    def differs_from(self, other: Memory) -> bool:
        """Whether either number differs so much that it has a row."""
        pairs = ((self.state, other.state), (self.in_step, other.in_step))
        return any(abs(mine - theirs) >= SAME_MEMORY * theirs for mine, theirs in pairs)


@measurement("Every method relative to KD", quick_s=25, full_s=300)
def methods(setting: Setting) -> Iterator[SideBySide]:
    """Ours against ours: KD ("reference") against every other registered method that fits the pair ("ours"), resnet32x4
    → resnet8x4. Time: a student's own step (forward, loss, backward of student and side modules, clipping, SGD,
    metrics) on teacher outputs that are computed already, which is what it adds to a cohort; every method takes turns
    with KD. Memory: weights, gradients, momentum and buffers of student and side modules, and the tensors kept for its
    backward pass; a row where that is 5% or more from KD's, with how many such students a GiB holds between steps (a
    CPU steps one at a time) and in their steps (a GPU, all at once). Last, a step of KD with a teacher pass of its own
    against a step of all methods on one. Quick: a batch of 8."""
    setting = replace(setting, batch_size=setting.choose(min(8, setting.batch_size), setting.batch_size))
    memory_of = memory(setting)
    kd = memory_of["kd"]
    with apart(setting, {"ours": partial(tasks, setting)}) as made:

        def against(reference: str, ours: str, rounds: int) -> tuple[Samples, Samples]:
            """Time two tasks in turns."""
            pair = {name: made[f"ours/{name}"] for name in (reference, ours)}
            found = setting.interleaved(pair, quick_s=0, full_s=0, rounds=rounds)
            return found[reference], found[ours]

        steps = {name: against("kd", name, setting.choose(2, 5)) for name in in_order() if name != "kd"}
        # a step of the whole table is as long as those of all rows before it
        whole = against(KD_ALONE, TABLE, setting.choose(2, 3))
    for name in in_order():
        if name in steps:
            yield timed(title_of(name), *steps[name])
        if name == "kd" or memory_of[name].differs_from(kd):
            yield counted(
                f"{title_of(name)}, {memory_of[name].words}", "MiB", kd.in_step / MIB, memory_of[name].in_step / MIB
            )
    label = f"all {len(memory_of)} methods on one teacher pass, KD on one"
    yield timed(label, *whole)


def in_order() -> list[str]:
    """Every registered method that fits the pair, those that look at logits only first, then by name."""
    seen = Known(Setting.image_size, Setting.num_classes)
    fit = [name for name in distillers.names() if not fit_of(run_config(PAIR, name), seen).misfit]
    return sorted(fit, key=lambda name: (distillers.registry.get(name).sees != "logits", name))


def tasks(setting: Setting) -> dict[str, Task]:
    """A step of every method's student by itself, of KD with its teacher, and of all methods with theirs."""
    names = in_order()
    table = Cohort(setting, [run_config(PAIR, name) for name in names])
    steps = dict(zip(names, table.lane_steps(), strict=True))
    return {**steps, KD_ALONE: Cohort(setting, [run_config(PAIR, "kd")]).step, TABLE: table.step}


def memory(setting: Setting) -> dict[str, Memory]:
    """Memory of every method's student."""
    cohort = Cohort(setting, [run_config(PAIR, name) for name in in_order()])
    batch, shown = cohort.prepared(cohort.inputs)
    return {lane.config.method: Memory(state_bytes(lane), kept_bytes(lane, batch, shown)) for lane in cohort.lanes}


def state_bytes(lane: Lane) -> int:
    """Bytes of a student between steps: weights, buffers, and gradient and momentum of what is trained."""
    trained = [parameter for group in lane.optimizer.param_groups for parameter in group["params"]]
    return sum(tensor.nbytes for tensor in (*_tensors(lane), *trained, *trained))


def kept_bytes(lane: Lane, batch: Batch, shown: Mapping[Request, Outputs]) -> int:
    """Bytes of what a step keeps for its backward pass, without weights and what all students of a cohort share."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        lane.step(batch.views, batch.target_B, shown, batch.index_B)
    shared: list[Tensor] = [*batch.views.values(), batch.target_B]
    for outputs in shown.values():
        outputs.map_all(lambda tensor: shared.append(tensor) or tensor)  # type: ignore[func-returns-value]
    for tensor in chain(_tensors(lane), shared):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def _tensors(lane: Lane) -> Iterator[Tensor]:
    """Weights and buffers of a student and its side modules."""
    modules: list[nn.Module] = [lane.network] if lane.modules is None else [lane.network, lane.modules]
    return chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
