"""Show what is registered, planned, stored and tracked. No training."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import get_args

from rich.console import Console
from rich.table import Table as RichTable

import distillers
import models
from benchmark import catalogue, command_line, datasets, doctor, files, results, tracking
from benchmark.commands import bundle, prepare, server, train, ui
from benchmark.config import Data
from benchmark.errors import UserError, among
from benchmark.plan import suite
from benchmark.plan.resolve import make_plan
from benchmark.train import teacher_import, teacher_store
from distillers.base import Convention, Parameters


def show_name(given: argparse.Namespace, console: Console) -> int:
    """Print the details of a method, model, data set or suite."""
    name = given.name
    if name in distillers.names():
        show_method(name, console)
    if name in models.registry:
        show_model(name, console)
    if name in datasets.names():
        console.print(f"data set {name}\n", style="bold")
        console.print((sys.modules[datasets.registry.get(name).__module__].__doc__ or "").strip())
        console.print(f"\noptions: {', '.join(datasets.options(name)) or 'none'} (--set data.OPTION=VALUE)\n")
    if name in catalogue.suites():  # `digits` is a data set and a suite
        show_suite(suite.load(name), console)
    return 0


def show_method(name: str, console: Console) -> None:
    """Print a method's hyperparameters under both conventions."""
    method = distillers.registry.get(name)
    console.print(f"{method.title} ({name})\n\n{inspect.cleandoc(method.__doc__ or '')}\n")
    if method.couples_batch:
        console.print("It compares the images of a minibatch: with --gpus, those of each process's share.\n")
    conventions = get_args(Convention)
    shown = RichTable("field", *(f"convention={convention}" for convention in conventions), "allowed")
    resolved = [distillers.create(name, convention=convention).parameters() for convention in conventions]
    for group, parameters in method.groups.items():
        for field in parameters.model_fields:
            values = [str(groups[group][field]) for groups in resolved]
            shown.add_row(f"{group}.{field}", *values, allowed(parameters, field))
    if shown.row_count:
        console.print(shown)
        console.print(
            "Change a field with `--set FIELD=VALUE`, all fields of a convention with `--set convention=paper`."
        )


def allowed(parameters: type[Parameters], field: str) -> str:
    """Describe a field's type and range, from its JSON schema."""
    schema = parameters.model_json_schema()["properties"][field]
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    words = {"minimum": ">= {}", "exclusiveMinimum": "> {}", "maximum": "<= {}", "exclusiveMaximum": "< {}"}
    limits = [form.format(schema[key]) for key, form in words.items() if key in schema]
    kind = str(schema.get("type", ""))
    if kind == "array":
        kind = f"list of {schema.get('items', {}).get('type', 'values')}s"
    return " ".join([kind, *limits]).strip()


def show_model(name: str, console: Console) -> None:
    """Print a network's size and last map in its CIFAR and CUB forms."""
    import torch

    console.print(f"model {name}\n", style="bold")
    for classes, side in ((100, 32), (200, 224)):
        try:
            network = models.create(name, classes, side).eval()
        except UserError as error:
            console.print(f"{classes} classes at {side} x {side}: {error}")
            continue
        count = sum(parameter.numel() for parameter in network.parameters())
        with torch.no_grad():
            _, channels, height, width = network.forward_features(torch.zeros(1, 3, side, side)).shape
        console.print(
            f"{classes} classes at {side} x {side}: {count / 1e6:.3f} M parameters, last map {channels} x"
            f" {height} x {width}",
        )


def show_suite(chosen: suite.Suite, console: Console) -> None:
    """Print a suite: its pairs, methods, recipe and the published tables that it rebuilds."""
    plan = make_plan(chosen)
    console.print(f"suite {chosen.name}: {chosen.title}\n", style="bold")
    console.print(f"rebuilds: {', '.join(chosen.rebuilds) or 'no published table'}")
    console.print(
        f"methods: {' '.join(chosen.methods)}   seeds: {chosen.seeds}   runs: {len(plan.runs)}   profiles:"
        f" {' '.join(chosen.profiles) or 'none'}",
    )
    usual = {*chosen.methods, *(group for method in chosen.methods for group in distillers.groups(method))}
    shown = RichTable("pair", "epochs", "lr", "settings of its own")
    for pair in plan.pairs:
        recipes = [planned.config.recipe for planned in plan.runs if planned.pair is pair]
        own = {key: value for key, value in {**pair.parameters, **pair.methods}.items() if key in usual}
        shown.add_row(
            pair.name,
            " ".join(map(str, sorted({recipe.epochs for recipe in recipes}))),
            " ".join(map(str, sorted({recipe.lr for recipe in recipes}))),
            "  ".join(f"{key}: {value}" for key, value in own.items()),
        )
    console.print(shown)
    named = [*chosen.on_request, *(key for pair in plan.pairs for key in (*pair.parameters, *pair.methods))]
    if others := sorted(set(named) - usual):
        console.print(f"settings for methods that run on request (--methods): {' '.join(others)}")


def show_status(given: argparse.Namespace, console: Console) -> int:
    """Print the progress of a suite; train nothing and write nothing new."""
    options = command_line.options_of(given)
    survey = train.look(train.plan_of(given, options.device), options, is_read_only=True)
    train.progress_of(survey).print(console)
    train.remember(given, survey)
    return 0


def manage_teachers(given: argparse.Namespace, console: Console) -> int:
    """List stored teachers, or import published checkpoints and measure their accuracy."""
    options = command_line.options_of(given)
    if given.action == "import":
        if given.folder is None:
            raise UserError(f"teachers import: name the folder that holds {teacher_import.EXPECTED}")
        import torch

        files.check_writable(options.teachers)
        data = datasets.load(Data(name=given.dataset), options.data_root, options.cache)
        device = torch.device(options.device)
        for manifest in teacher_import.import_folder(given.folder, options.teachers, data, device):
            measured = f"imported {manifest.model}: {manifest.test_top1:.2f}% on {manifest.dataset}"
            console.print(f"{measured}{teacher_import.beside_torchvisions(manifest)}", soft_wrap=True)
        return 0
    shown = RichTable("data set", "model", "test top-1", "best epoch", "epochs", "origin", "checksum", "file")
    for place, manifest in teacher_store.manifests(options.teachers):
        best = "" if manifest.best_test_top1 is None else f"{manifest.best_test_top1:.2f}"
        shown.add_row(
            manifest.dataset,
            manifest.model,
            f"{manifest.test_top1:.2f}",
            best,
            str(manifest.epochs or ""),
            manifest.origin,
            manifest.checksum[:12],
            os.path.relpath(manifest.file(place).path),
        )
    if shown.row_count:
        console.print(shown)
    else:
        console.print(
            f"no teachers under {options.teachers}: a suite trains those it needs, or import published checkpoints"
            " with `python -m benchmark teachers import FOLDER`",
        )
    return 0


def export_runs(given: argparse.Namespace, console: Console) -> int:
    """Copy tracked runs to a folder: runs.csv, epochs.csv and every run's artifacts, with no absolute path inside."""
    tracker = tracking.open_existing(given.runs)
    if tracker is None:
        raise UserError(f"nothing is tracked under {given.runs}: run a suite first, or name the folder with --runs")
    experiments = tracker.experiments()
    if given.suite is not None and given.suite not in experiments:
        raise UserError(f"no experiment '{given.suite}'{among(given.suite, experiments)}")
    chosen = [experiments[given.suite]] if given.suite else list(experiments.values())
    tracked = tracker.runs_in(chosen)
    files.write(given.to / "runs.csv", results.frame(tracked).to_csv(index=False).encode())
    files.write(given.to / "epochs.csv", results.epochs(tracker, tracked).to_csv(index=False).encode())
    for tracked_run in tracked:
        tracker.download(tracked_run.run_id, given.to / "artifacts" / tracked_run.signature)
    console.print(f"{len(tracked)} runs of {len(chosen)} experiments exported to {given.to}")
    for folder in tracker.lost_artifacts():
        console.print(f"Without artifacts: {folder} is not there.", soft_wrap=True)
    return 0


def examine(given: argparse.Namespace, console: Console) -> int:
    """Print what every check finds, and mend it with --fix; return 1 when something is wrong in the end."""
    num_wrong = num_mendable = 0
    for name, finding in doctor.examine(doctor.Places(command_line.options_of(given))):
        console.print(f"{finding.mark:<5}  {name}: {finding.text}", soft_wrap=True)
        num_wrong += finding.mark == "wrong"
        if finding.mend is None:
            continue
        if not given.fix:
            num_mendable += 1
            continue
        try:
            console.print(f"fixed  {name}: {finding.mend()}", soft_wrap=True)
            num_wrong -= 1
        except (UserError, OSError) as error:
            console.print(f"kept   {name}: {error}", soft_wrap=True)
    if num_mendable:
        console.print(f"`python -m benchmark doctor --fix` fixes {num_mendable} of these.")
    console.print(f"{num_wrong} wrong." if num_wrong else "Nothing is wrong.")
    return 1 if num_wrong else 0


COMMANDS: Mapping[str, Callable[[argparse.Namespace, Console], int]] = {
    "show": show_name,
    "status": show_status,
    "prepare": prepare.prepare,
    "teachers": manage_teachers,
    "export": export_runs,
    "pack": bundle.pack_runs,
    "merge": bundle.merge_bundles,
    "doctor": examine,
    "ui": ui.serve,
    "server": server.serve,
}
