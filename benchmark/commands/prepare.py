"""Prepare for training: download, check and decode a data set, and fill teachers' view caches."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.progress import Progress

from benchmark import command_line, datasets, machine
from benchmark.config import Data, Precision
from benchmark.errors import UserError, among
from benchmark.execution.options import Options
from benchmark.plan.resolve import data_config, parse_assignments
from benchmark.train import teacher_store
from benchmark.train.heads import STORED_SCALES, Request
from benchmark.train.teacher import STORED_VIEW, BatchTeacher
from benchmark.train.teacher_store import Manifest
from benchmark.train.view_cache import open_caches


def prepare(given: argparse.Namespace, console: Console) -> int:
    """Download, check and decode a data set, print its size and source, and fill view caches when asked to."""
    changes = parse_assignments(given.assignments)
    fields = changes.pop("data", {})
    if changes or not isinstance(fields, dict):
        raise UserError(f"--set {next(iter(changes), 'data')}: only data.FIELD=VALUE makes sense here")
    config: Data = data_config({"name": given.dataset, **fields})
    options = command_line.options_of(given)
    data = datasets.load(config, options.data_root, options.cache, not options.offline, render=True)
    console.print(
        f"{data.name}: {len(data.train):,} train and {len(data.test):,} test images, {data.num_classes} classes,"
        f" seen at {data.image_size} x {data.image_size}\nsource: {data.source}\ndigest: {data.digest}",
    )
    if given.cache is not None:
        _fill_view_caches(given.cache, options, data, console)
    return 0


def _fill_view_caches(chosen: str, options: Options, data: datasets.DataSet, console: Console) -> None:
    """Store the outputs of a teacher (or `all`) for every view of a training set, for all runs with --cache.

    Raises:
        UserError: when no such teacher is stored, or its cache does not fit.
    """
    stored = [one for one in teacher_store.manifests(options.teachers) if one[1].data_digest == data.digest]
    if not stored:
        raise UserError(f"--cache: no teacher of {data.name} is stored under {options.teachers}; a run trains them")
    wanted_teachers = _chosen(chosen, [manifest for _, manifest in stored], data.name)
    device = torch.device(options.device)
    machine.set_numerics(device, options.threads)
    machine.keep_freed_memory()
    precision: Precision = "bf16" if machine.has_fast_bf16(options.device) else "fp32"
    for folder, manifest in (one for one in stored if one[1] in wanted_teachers):
        model, file = manifest.model, manifest.file(folder)
        # the scales of the papers: the outputs that any method needs follow from the cells stored for them
        wanted = [Request(STORED_VIEW, STORED_SCALES, "map")]
        network = teacher_store.load_network(file, data)
        teacher = BatchTeacher(network, wanted, device, precision, data.image_size, "fp16")
        try:
            cached = open_caches(teacher, file, data, len(data.train), options.cache, options.cache_gb, console.print)
        except OSError as error:
            raise UserError(
                f"--cache: the view cache of {model} under {options.cache} cannot be opened for writing"
                f" ({error.strerror or error}): make it writable, or name another folder with --runs"
            ) from error
        before = cached.num_stored()
        console.print(f"{model}: {before:,} of {cached.num_rows:,} views are stored")
        with Progress(console=console) as progress:
            task = progress.add_task(model, total=cached.num_rows)
            cached.fill(lambda count, task=task: progress.advance(task, count))  # type: ignore[misc]
        console.print(f"{model}: {cached.num_stored() - before:,} views computed; all are in {cached.caches[0].folder}")


def _chosen(chosen: str, stored: Sequence[Manifest], data: str) -> list[Manifest]:
    """Choose the teachers that a model's name, the beginning of a checksum, or `all` means.

    Raises:
        UserError: when none is meant, or a model has several: which one later runs ask for depends on their settings.
    """
    by_checksum = [one for one in stored if len(chosen) >= 4 and one.checksum.startswith(chosen)]
    found = by_checksum or [one for one in stored if chosen in (one.model, "all")]
    if not found:
        known = sorted({one.model for one in stored})
        raise UserError(f"--cache {chosen}: no such teacher of {data} is stored{among(chosen, known)}")
    for manifest in found:
        same = [one for one in found if one.model == manifest.model]
        if len(same) > 1:
            listed = ", ".join(f"{one.checksum[:12]} ({one.test_top1:.2f}%, {_origin(one)})" for one in same)
            raise UserError(
                f"--cache {chosen}: {len(same)} teachers {manifest.model} of {data} are stored; name one by its"
                f" checksum: {listed}"
            )
    return found


def _origin(manifest: Manifest) -> str:
    return "imported" if manifest.epochs is None else f"{manifest.epochs} epochs"
