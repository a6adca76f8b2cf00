"""Inspect and prepare: `python -m benchmark {list,show,status,prepare,teachers,export,doctor,ui}`. No training."""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from typing import get_args

from rich.console import Console
from rich.table import Table as RichTable

import distillers
import models
from benchmark import command_line, datasets, doctor, files, machine, prepare, results, run, saved_views, tracking
from benchmark.config import Data
from benchmark.datasets import views
from benchmark.errors import UserError, among, nearest
from benchmark.plan import suite
from benchmark.plan.resolve import make_plan
from benchmark.train import teacher_store
from distillers.base import Convention, Parameters

KINDS = ("methods", "models", "datasets", "suites", "views")
#: kinds that other commands list
ELSEWHERE = {"studies": "python -m benchmark.study", "sections": "python -m reports --list"}


def parser() -> command_line.Parser:
    """Define the commands and their arguments."""
    made = command_line.Parser("python -m benchmark", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=command_line.Parser)

    listing = commands.add_parser("list", help="methods, models, data sets, suites and views by name")
    listing.add_argument("kind", nargs="?", choices=(*KINDS, *ELSEWHERE), metavar="|".join(KINDS))

    show = commands.add_parser("show", help="details of one entry: fields, ranges, defaults, sources")
    show.add_argument("name")

    status = commands.add_parser("status", help="progress of a suite: done, resumable, missing, failed")
    command_line.add_choices(status)
    command_line.add_places(status)
    status.add_argument("--device", default="auto", help="device of the training: some settings are resolved for it")

    making = commands.add_parser("prepare", help="download, check and decode a data set")
    making.add_argument("dataset", metavar="DATASET")
    making.add_argument("--set", dest="assignments", action="append", default=[], metavar="data.KEY=VALUE")
    making.add_argument(
        "--cache",
        nargs="?",
        const="all",
        metavar="TEACHER",
        help="store a teacher's outputs for every view of the training set (default: of all stored teachers)",
    )
    command_line.add_cache_limit(making)
    making.add_argument("--device", default="auto", help="device that runs the teacher of --cache")
    making.add_argument(
        "--threads",
        type=command_line.parallel,
        default=machine.available_cores(),
        metavar="N",
        help="CPU threads used by --cache",
    )
    command_line.add_places(making)

    stored = commands.add_parser("teachers", help="list stored teachers, or import published checkpoints")
    stored.add_argument("action", choices=("list", "import"), nargs="?", default="list")
    stored.add_argument(
        "folder", type=command_line.folder, nargs="?", help="import: folder with <network>_vanilla/ckpt_epoch_240.pth"
    )
    stored.add_argument("--device", default="auto", help="import: device that measures their accuracy")
    stored.add_argument("--dataset", default="cifar100", help="import: data set that the checkpoints were trained on")
    command_line.add_places(stored)

    export = commands.add_parser("export", help="copy tracked runs to a folder that can be moved: CSV and artifacts")
    export.add_argument("to", type=command_line.folder)
    export.add_argument("--suite", help="only this experiment, e.g. digits or digits-smoke")
    command_line.add_places(export)

    examined = commands.add_parser("doctor", help="say what is wrong on this machine and in a runs folder")
    examined.add_argument("--fix", action="store_true", help="mend what is safe to mend, and say what was done")
    command_line.add_places(examined)

    browse = commands.add_parser("ui", help="browse every run in MLflow")
    browse.add_argument("--port", type=command_line.whole(1, 65535), default=5000)
    command_line.add_places(browse)
    return made


def main(arguments: Sequence[str] | None, console: Console) -> int:
    """Run a command; return its exit code."""
    given = parser().parse_args(arguments)
    commands = {
        "list": list_names,
        "show": show_name,
        "status": show_status,
        "prepare": prepare.prepare,
        "teachers": manage_teachers,
        "export": export_runs,
        "doctor": examine,
        "ui": serve_ui,
    }
    return commands[given.command](given, console)


def list_names(given: argparse.Namespace, console: Console) -> int:
    """Print the registered names by kind."""
    if given.kind in ELSEWHERE:
        console.print(f"`{ELSEWHERE[given.kind]}` lists the {given.kind}.")
        return 0
    rows = {
        "methods": [
            (name, f"{distillers.registry.get(name).title}: {first_line(distillers.registry.get(name).__doc__)}")
            for name in distillers.names()
        ],
        "models": [
            *((name, "") for name in models.names()),
            *(
                (f"{family}/<name>", f"any {family} network that passes the head check")
                for family in ("timm", "torchvision")
            ),
        ],
        "datasets": [
            (name, first_line(sys.modules[datasets.registry.get(name).__module__].__doc__)) for name in datasets.names()
        ],
        "suites": [(name, suite.load(name).title) for name in suite.names()],
        "views": [(name, first_line(views.registry.get(name).__doc__)) for name in views.registry],
    }
    for kind in [given.kind] if given.kind else KINDS:
        console.print(f"{kind}", style="bold")
        if kind == "models":
            console.print(
                textwrap.fill(
                    "  ".join(name for name, _ in rows[kind]),
                    100,
                    initial_indent="  ",
                    subsequent_indent="  ",
                    break_on_hyphens=False,
                ),
            )
            continue
        width = max(len(name) for name, _ in rows[kind])
        for name, words in rows[kind]:
            console.print(f"  {name:{width}}  {words}", overflow="ellipsis", no_wrap=True)
    if not given.kind:
        console.print("\nDetails of one entry: `python -m benchmark show NAME`.")
        elsewhere = ", ".join(f"{kind} by `{command}`" for kind, command in ELSEWHERE.items())
        console.print(f"Listed elsewhere: {elsewhere}.")
    return 0


def first_line(text: str | None) -> str:
    """First line of a docstring, or an empty string."""
    return (text or "").strip().partition("\n")[0]


def show_name(given: argparse.Namespace, console: Console) -> int:
    """Print the details of a method, model, data set or suite."""
    name = given.name
    known = [*suite.names(), *distillers.names(), *datasets.names(), *models.names()]
    if name not in known and name not in models.registry:
        raise UserError(f"nothing is called '{name}'{nearest(name, known) or ';'} see `python -m benchmark list`")
    if name in distillers.names():
        show_method(name, console)
    if name in models.registry:
        show_model(name, console)
    if name in datasets.names():
        console.print(f"data set {name}\n", style="bold")
        console.print((sys.modules[datasets.registry.get(name).__module__].__doc__ or "").strip())
        console.print(f"\noptions: {', '.join(datasets.options(name)) or 'none'} (--set data.OPTION=VALUE)\n")
    if name in suite.names():  # `digits` is a data set and a suite
        show_suite(suite.load(name), console)
    return 0


def show_method(name: str, console: Console) -> None:
    """Print a method's hyperparameters under both conventions."""
    method = distillers.registry.get(name)
    console.print(f"{method.title} ({name})\n\n{inspect.cleandoc(method.__doc__ or '')}\n")
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
    shown = RichTable("pair", "epochs", "lr", "settings of its own")
    for pair in plan.pairs:
        recipes = [planned.config.recipe for planned in plan.runs if planned.pair is pair]
        own = {**pair.parameters, **pair.methods}
        shown.add_row(
            pair.name,
            " ".join(map(str, sorted({recipe.epochs for recipe in recipes}))),
            " ".join(map(str, sorted({recipe.lr for recipe in recipes}))),
            "  ".join(f"{key}: {value}" for key, value in own.items()),
        )
    console.print(shown)


def show_status(given: argparse.Namespace, console: Console) -> int:
    """Print the progress of a suite; train nothing and write nothing new."""
    options = command_line.options_of(given)
    survey = run.look(run.plan_of(given, options.device), options, download=False)
    console.print(run.describe(survey))
    for entry in survey.entries:
        if entry.state == "failed":
            console.print(f"failed: {entry.label}: {entry.reason}")
        elif entry.state == "resume":
            console.print(f"to resume after epoch {entry.epochs_done}: {entry.label}")
    console.print(f"Runs: {run.counts(survey.entries)}")
    return 0


def manage_teachers(given: argparse.Namespace, console: Console) -> int:
    """List stored teachers, or import published checkpoints and measure their accuracy."""
    options = command_line.options_of(given)
    if given.action == "import":
        if given.folder is None:
            raise UserError("teachers import: name the folder that holds <network>_vanilla/ckpt_epoch_240.pth")
        import torch

        files.check_writable(options.teachers)
        data = datasets.load(Data(name=given.dataset), options.data_root, options.cache)
        device = torch.device(options.device)
        for manifest in teacher_store.import_folder(given.folder, options.teachers, data, device):
            console.print(f"imported {manifest.model}: {manifest.test_top1:.2f}% on {manifest.dataset}")
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
        console.print(f"`python -m benchmark doctor --fix` mends {num_mendable} of these.")
    console.print(f"{num_wrong} wrong." if num_wrong else "Nothing is wrong.")
    return 1 if num_wrong else 0


def serve_ui(given: argparse.Namespace, console: Console) -> int:
    """Start MLflow's server on the runs folder and print the addresses of the training runs."""
    tracker = tracking.open_existing(given.runs)
    if tracker is None:
        raise UserError(
            f"nothing is tracked under {given.runs}: run `make bench` first, or name the folder with --runs"
        )
    address = f"http://127.0.0.1:{given.port}"
    for name, identity in tracker.experiments().items():
        if not tracker.is_read_only:
            tracker.save_views(identity)
        console.print(f"{name}: {tracker.ui_address(identity, address)}", soft_wrap=True)
        if not name.startswith(saved_views.STUDIES):
            console.print(f"{name}, charts: {tracker.ui_address(identity, address, charts=True)}", soft_wrap=True)
    if not tracker.is_local:
        return 0
    console.print("Ctrl-C ends the server.")
    # saves two processes of one gigabyte: no background jobs are used here
    variables = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        tracker.uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(given.port),
        "--workers",
        "1",
        "--default-artifact-root",
        str(tracker.runs / "artifacts"),
    ]
    with subprocess.Popen(command, env=variables) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()  # Ctrl-C in a terminal reaches the server too, SIGTERM does not
            raise


if __name__ == "__main__":
    command_line.run(main)
