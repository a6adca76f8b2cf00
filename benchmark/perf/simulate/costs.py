"""What training costs in a simulation: times measured on two CPU cores, and those of other networks by their size."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from benchmark.config import RunConfig
from benchmark.datasets.base import Augmentation, DataSet, MemoryImages
from benchmark.execution.estimate import Costs
from benchmark.execution.speeds import NOTHING, Speed

#: seconds of a batch of 64 on two cores of an AMD EPYC (docs/perf): a student's step is that of the whole iteration
#: without its teacher's pass; a teacher's pass in fp32, and in bf16
_STEP_S = {"resnet8x4": 0.186, "shufflenet_v1": 0.230, "mobilenet_v2": 0.0535}
_PASS_S = {"resnet32x4": (0.2916, 0.1492), "vgg13": (0.0864, 0.0483), "wrn_40_2": (0.1012, 0.0520)}
#: multiply-adds of a forward pass, millions at 32 x 32, of all networks of the suite; what was not measured takes as
#: long for each of them as the measured network that is named in `_ALIKE`
_SIZES = {
    "mobilenet_v2": 6.5, "resnet20": 40.8, "resnet32": 69.1, "resnet56": 125.8, "resnet110": 253.2, "resnet8x4": 177.1,
    "resnet32x4": 1083.0, "resnet50": 1298.0, "shufflenet_v1": 38.7, "shufflenet_v2": 44.5, "vgg8": 96.2,
    "vgg13": 284.9, "wrn_16_2": 101.1, "wrn_40_1": 83.3, "wrn_40_2": 327.6,
}  # fmt: skip
_ALIKE = {"shufflenet_v2": "shufflenet_v1"}
#: a student's step in units of KD's, with AVX-512 (docs/performance.md: without); 1 for all others, whose views are
#: counted
_METHODS = {"at": 1.09, "fitnet": 1.07, "simkd": 1.08, "ofd": 1.14, "vid": 1.35, "nst": 1.37, "reviewkd": 3.1}
_BATCH = 64

#: how many times faster a worker is than two cores. `cpu`: a worker has one of the two, and one thread (measured: two
#: workers are as fast as two threads, or faster). `gpu`: NOT measured; an estimate for one of the H100 kind: a run of
#: resnet32x4 -> resnet8x4 takes 157 s, the geometric middle of the 70 to 350 s that arithmetic and launches allow
SPEEDUP: Mapping[str, float] = {"cpu": 0.5, "gpu": 400.0}


class ModelledCosts(Costs):
    """Costs of CIFAR-100's networks and methods on a worker that is `speedup` times as fast as two cores."""

    def __init__(self, data: DataSet, speedup: float) -> None:
        super().__init__(data, torch.device("cpu"), 1)
        self._image_s = 1 / (_BATCH * speedup)

    def speed(self, model: str, batch_size: int) -> Speed:
        """Speed of a network; its forward pass is a third of its step."""
        alike = model if model in _STEP_S else _ALIKE.get(model, "resnet8x4")
        step_s = _STEP_S[alike] * _SIZES[model] / _SIZES[alike] * self._image_s
        return Speed(step_s / 3, step_s)

    def teacher_s(self, config: RunConfig, batch_size: int) -> float:
        """Seconds per image of a run's teacher."""
        assert config.teacher is not None
        alike = config.teacher if config.teacher in _PASS_S else "resnet32x4"
        seconds = _PASS_S[alike][config.teacher_precision == "bf16"]
        return seconds * _SIZES[config.teacher] / _SIZES[alike] * self._image_s

    def method(self, config: RunConfig) -> Speed:
        """What a run's method adds to its student."""
        if config.method not in _METHODS:
            return NOTHING
        more = _METHODS[config.method] - 1
        return Speed(0.0, more * self.speed(config.student, config.recipe.batch_size).train_s)


def stand_in() -> DataSet:
    """Images of the number and size of CIFAR-100's, which hold nothing: a simulation looks at none."""

    def images(count: int) -> MemoryImages:
        return MemoryImages(torch.zeros(1, 3, 32, 32, dtype=torch.uint8).expand(count, -1, -1, -1), torch.zeros(count))

    zero = (0.0, 0.0, 0.0)
    classes = tuple(str(number) for number in range(100))
    return DataSet("cifar100", classes, 32, zero, zero, images(50_000), images(10_000), Augmentation(4), "simulated")
