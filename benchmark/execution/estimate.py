"""Estimate how long a plan takes on this device, from a few measured steps of every network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import torch

from benchmark import machine, process
from benchmark.config import Precision, RunConfig
from benchmark.datasets.base import DataSet, MemoryImages
from benchmark.errors import UserError
from benchmark.execution import cohorts, speeds
from benchmark.execution.speeds import Speed
from benchmark.execution.survey import Entry, Survey
from benchmark.train.batches import splits
from benchmark.train.view_cache import Views
from distillers.base import Distiller, UnfitPair

#: batch of a measured step on a CPU, where a step's time is about proportional to its batch: of small and large images
_CPU_BATCH, _CPU_BATCH_LARGE = 16, 4
#: batch of a measured loss of a method that looks at features, of small images
_METHOD_BATCH = 64
#: a faster step is measured with four times the batch: much of a short step is not proportional to it (0.27 ms an image
#: in a batch of 16, and 0.17 ms in one of 64)
_SHORT_STEP_S = 0.05
#: seconds until a worker process has imported what it needs, and those of a new store's tables; CPU-seconds that
#: MLflow and the curves of a finished run take, and each of its epochs. Measured on an AMD EPYC
WORKER_START_S, STORE_S, _TRACKED_RUN_S, _TRACKED_EPOCH_S = 5.0, 3.5, 0.15, 0.006
#: images decoded to measure a loader
_LOADER_IMAGES = 1024


class Costs:
    """Measured speeds, and the times of cohorts that follow from them."""

    def __init__(self, data: DataSet, device: torch.device, threads: int, precision: Precision = "fp32") -> None:
        self.data, self.device, self.threads, self.precision = data, device, threads, precision
        self._speeds: dict[str, Speed] = {}
        self._teachers: dict[tuple[str, Precision], float] = {}
        self._methods: dict[tuple[str, str, str | None], Speed] = {}
        self._loader_rate: float | None = None
        #: what is asked of every run of a plan, and takes long to make: distillers, and numbers of images
        self._distillers: dict[tuple[str, str], Distiller] = {}
        self._images: dict[str, tuple[int, int, int]] = {}

    def speed(self, model: str, batch_size: int) -> Speed:
        """Speed of a network, measured on first use."""
        if model not in self._speeds:
            count = self._count(batch_size)
            found = speeds.of_network(model, self.data, count, self.device, self.threads, self.precision)
            if count < batch_size and count * found.train_s < _SHORT_STEP_S:
                more = min(batch_size, 4 * count)
                found = speeds.of_network(model, self.data, more, self.device, self.threads, self.precision)
            self._speeds[model] = found
        return self._speeds[model]

    def _count(self, batch_size: int) -> int:
        few = _CPU_BATCH if self.data.image_size <= 64 else _CPU_BATCH_LARGE
        return min(batch_size, few) if self.device.type == "cpu" else batch_size

    def teacher_s(self, config: RunConfig, batch_size: int) -> float:
        """Seconds per image of a run's teacher, as a cohort runs it, measured on first use."""
        assert config.teacher is not None
        key = (config.teacher, config.teacher_precision)
        if key not in self._teachers:
            count = self._count(batch_size)
            self._teachers[key] = speeds.of_teacher(config, self.data, count, self.device, self.threads)
        return self._teachers[key]

    def method(self, config: RunConfig) -> Speed:
        """What a run's method adds to its student, measured on first use; nothing for a method on logits alone."""
        if config.teacher is None or not self._distiller(config).needs_networks():
            return speeds.NOTHING
        key = (config.method, config.student, config.teacher)
        if key not in self._methods:
            # pairs and triples of images make some losses more than proportional to the batch
            few = _METHOD_BATCH if self.data.image_size <= 64 else _CPU_BATCH_LARGE
            count = min(config.recipe.batch_size, few) if self.device.type == "cpu" else config.recipe.batch_size
            try:
                self._methods[key] = speeds.of_method(config, self.data, count, self.device, self.threads)
            except UnfitPair:  # training says why
                self._methods[key] = speeds.NOTHING
        return self._methods[key]

    def loader_images_per_s(self) -> float | None:
        """Images per second that the loader streams from files, measured on first use; None for images in memory.

        The start of the loader's processes is included, so the rate is a little lower than in a long epoch.
        """
        images = self.data.train
        if isinstance(images, MemoryImages):
            return None
        if self._loader_rate is None:
            order = torch.arange(min(len(images), _LOADER_IMAGES))
            started = time.perf_counter()
            for _ in images.batches(list(torch.split(order, 64)), torch.device("cpu")):
                pass
            self._loader_rate = len(order) / (time.perf_counter() - started)
        return self._loader_rate

    def _distiller(self, config: RunConfig) -> Distiller:
        """The run's distiller, which runs of the same settings share."""
        key = config.method, repr(config.parameters)
        if key not in self._distillers:
            self._distillers[key] = config.distiller()
        return self._distillers[key]

    def _num_images(self, config: RunConfig) -> tuple[int, int, int]:
        """Number of images that a run is trained, validated and tested on."""
        key = config.data.model_dump_json()
        if key not in self._images:
            parts = splits(self.data, config.data)
            self._images[key] = len(parts.train), len(parts.val), len(parts.test)
        return self._images[key]

    def _computed_share(self, config: RunConfig, runs: Sequence[RunConfig]) -> float:
        """Share of an epoch's weak views that no earlier epoch has stored, on average over a training.

        It is V (1 - (1 - 1 / V)^E) / E with V views of an image and E epochs; 1 without a cache, and where a run of
        the cohort sees feature maps, which no cache holds.
        """
        sees_maps = any(self._distiller(one).sees != "logits" for one in runs)
        if sees_maps or config.teacher_cache == "none" or not isinstance(self.data.train, MemoryImages):
            return 1.0
        views, epochs = Views(self.data).num_views, config.recipe.epochs
        return views * (1 - (1 - 1 / views) ** epochs) / epochs

    def cohort_s(self, configs: Iterable[RunConfig], epochs_done: float = 0) -> float:
        """Seconds that a cohort takes: one teacher pass per view and batch, every lane, its evaluations."""
        runs = list(configs)
        first = runs[0]
        num_train, _, _ = self._num_images(first)
        per_epoch = 0.0
        teacher_views: set[str] = set()
        test, evaluated = self._num_evaluated(first)
        for config in runs:
            speed = self.speed(config.student, config.recipe.batch_size)
            views = self._distiller(config).views
            per_epoch += num_train * (len(views) * speed.train_s + self.method(config).train_s)
            if config.teacher is not None:
                teacher_views |= set(views)
        shown = next((config for config in runs if config.teacher is not None), None)
        once = 0.0
        if shown is not None:
            forward_s = self.teacher_s(shown, first.recipe.batch_size)
            passes = len(teacher_views) - 1 + self._computed_share(shown, runs) if teacher_views else 0.0
            per_epoch += num_train * passes * forward_s
            once = test * forward_s
        per_epoch += self.evaluations_s(runs)
        if (rate := self.loader_images_per_s()) is not None:
            loading = (num_train + evaluated) / rate
            # a GPU trains while the cores decode
            per_epoch = per_epoch + loading if self.device.type == "cpu" else max(per_epoch, loading)
        return (first.recipe.epochs - epochs_done) * per_epoch + once

    def step_s(self, configs: Sequence[RunConfig]) -> float:
        """Seconds of a step of a cohort, with its part of the evaluations."""
        first = configs[0]
        steps = max(1, self._num_images(first)[0] // first.recipe.batch_size)
        return self.cohort_s(configs, first.recipe.epochs - 1) / steps

    def evaluations_s(self, configs: Sequence[RunConfig]) -> float:
        """Seconds that a cohort's evaluations take per epoch, spread over all epochs."""
        _, evaluated = self._num_evaluated(configs[0])
        networks = sum(self.speed(one.student, one.recipe.batch_size).forward_s for one in configs)
        return evaluated * (networks + sum(self.method(one).forward_s for one in configs))

    def _num_evaluated(self, config: RunConfig) -> tuple[int, float]:
        """Number of test images, and of images that are evaluated per epoch, spread over all epochs."""
        _, num_val, num_test = self._num_images(config)
        test = 0 if config.tuning else num_test
        return test, (test + num_val) / config.eval_every


def distinct(entries: Iterable[Entry]) -> list[Entry]:
    """First entry of every run, in order; a run that waits for its teacher is identified by its settings."""
    found: dict[str, Entry] = {}
    for entry in entries:
        found.setdefault(entry.signature or entry.config.signature("", entry.config.teacher), entry)
    return list(found.values())


def cohorts_of(entries: Sequence[Entry], workers: int, costs: Costs) -> list[list[Entry]]:
    """Group entries into cohorts of about equal load for the workers, the costliest first."""
    groups = cohorts.group(entries, lambda e: e.config, lambda e: (e.epochs_done, e.steps_done))
    return cohorts.balance(groups, workers, lambda group: _cost(group, costs))


def _cost(group: Sequence[Entry], costs: Costs) -> float:
    return costs.cohort_s([entry.config for entry in group], group[0].progress)


def overhead_s(survey: Survey) -> float:
    """Estimate the seconds of an execution that are not spent training: start of the workers, and tracking."""
    left = distinct(entry for entry in [*survey.teacher_entries.values(), *survey.entries] if entry.is_open)
    epochs = sum(entry.config.recipe.epochs - entry.progress for entry in left)
    tracking_s = len(left) * _TRACKED_RUN_S + epochs * _TRACKED_EPOCH_S
    start_s = 0.0 if survey.options.engine == "inline" else WORKER_START_S
    # one thread tracks while workers train: on a CPU it takes its share of the cores from them
    shared_s = tracking_s / process.available_cores() if survey.options.device == "cpu" else 0.0
    return start_s + shared_s + (STORE_S if survey.tracker is None else 0.0)


def estimate_s(survey: Survey, costs: Costs) -> float:
    """Estimate the seconds that training takes from measured steps: teachers first, then their students."""
    loads = [0.0] * survey.options.workers

    def add(seconds: float, not_before: float = 0.0) -> None:
        place = loads.index(min(loads))
        loads[place] = max(loads[place], not_before) + seconds

    for entry in survey.teacher_entries.values():
        if entry.is_open:
            add(_cost([entry], costs))
    teachers_done = max(loads)
    for group in cohorts_of(distinct(e for e in survey.entries if e.is_open), survey.options.workers, costs):
        needs_new_teacher = any(entry.state == "waiting" for entry in group)
        add(_cost(group, costs), teachers_done if needs_new_teacher else 0.0)
    return max(loads)


def refuse_slow_bf16(survey: Survey) -> None:
    """Raise UserError when an open run computes in bf16 on a CPU where that is slower, unless bf16 is forced."""
    options = survey.options
    left = [entry.config for entry in [*survey.teacher_entries.values(), *survey.entries] if entry.is_open]
    if options.device != "cpu" or options.force_bf16:
        return
    asking = "precision" if any(config.precision == "bf16" for config in left) else ""
    asking = asking or ("teacher_precision" if any(config.teacher_precision == "bf16" for config in left) else "")
    if asking and (slowdown := machine.bf16_slowdown()) > machine.SLOW_BF16:
        raise UserError(
            f"{asking}=bf16: on this CPU ({machine.cpu_capability()}) a convolution takes {slowdown:.1f} times as long"
            " in bf16 as in fp32; leave it out, or force it with --force-bf16"
        )
