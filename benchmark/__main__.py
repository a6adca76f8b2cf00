"""Inspect and prepare: `python -m benchmark {list,show,status,prepare,teachers,export,pack,merge,doctor,ui,server}`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmark import catalogue, command_line, process
from benchmark.bundles import pieces
from benchmark.commands import names, status


def parser() -> command_line.Parser:
    """Define the commands and their arguments."""
    made = command_line.Parser("python -m benchmark", description=__doc__)
    commands = made.add_subparsers(dest="command", metavar="COMMAND", parser_class=command_line.Parser)

    listing = commands.add_parser("list", help="methods, models, data sets, suites and more by name")
    listing.add_argument("kind", nargs="?", choices=names.KINDS, metavar="KIND", help="|".join(names.KINDS))

    show = commands.add_parser("show", help="details of one entry: fields, ranges, defaults, sources")
    show.add_argument("name", metavar="NAME", help="a method, model, data set or suite")

    progress = commands.add_parser("status", help="progress of a suite: done, resumable, missing, failed")
    command_line.add_choices(progress)
    command_line.add_places(progress)
    progress.add_argument("--device", default="auto", help="device of the training: some settings are resolved for it")

    making = commands.add_parser("prepare", help="download, check and decode a data set")
    making.add_argument("dataset", metavar="SUITE", help="a data set, or a suite, whose data set is prepared")
    command_line.add_assignments(making, "data.path=FOLDER")
    making.add_argument(
        "--cache",
        nargs="?",
        const="all",
        metavar="TEACHER",
        help="store a teacher's outputs for every view of the training set: its model, or the beginning of its"
        " checksum (default: of all stored teachers)",
    )
    command_line.add_cache_limit(making)
    making.add_argument("--device", default="auto", help="device that runs the teacher of --cache")
    making.add_argument(
        "--threads",
        type=command_line.parallel,
        default=process.available_cores(),
        metavar="N",
        help="CPU threads used by --cache",
    )
    command_line.add_places(making)

    stored = commands.add_parser("teachers", help="list stored teachers, or import published checkpoints")
    stored.add_argument(
        "action", choices=("list", "import"), nargs="?", default="list", help="list (default) or import"
    )
    stored.add_argument(
        "folder",
        type=command_line.folder,
        nargs="?",
        metavar="FOLDER",
        help="import: folder with <network>_vanilla/ckpt_epoch_240.pth, or with torchvision's .pth files",
    )
    stored.add_argument(
        "dataset",
        nargs="?",
        default="cifar100",
        metavar="SUITE",
        help="import: suite or data set that the checkpoints were trained on (default: cifar100)",
    )
    stored.add_argument("--device", default="auto", help="import: device that measures their accuracy")
    command_line.add_places(stored)

    export = commands.add_parser("export", help="copy tracked runs to a folder that can be moved: CSV and artifacts")
    export.add_argument("to", type=command_line.folder, metavar="FOLDER", help="folder to write to")
    export.add_argument(
        "suite", nargs="?", metavar="SUITE", help="only this experiment, e.g. digits or digits-smoke (default: all)"
    )
    command_line.add_places(export)

    packing = commands.add_parser(
        "pack", help="pack runs, teachers and checkpoints into files that another machine merges"
    )
    packing.add_argument("to", type=Path, metavar="FILE", help="what the pieces are called: FILE.001, FILE.002, ...")
    command_line.add_choices(packing, suite=None, without="all that the runs folder holds, studies included")
    packing.add_argument("--weights", action="store_true", help="add the weights of finished students")
    packing.add_argument(
        "--fp16",
        action="store_true",
        help="round weights to fp16: a rounded teacher is another teacher, and the students that it teaches are other"
        " runs than those of the teacher that it was made of",
    )
    packing.add_argument(
        "--piece-mb",
        type=command_line.whole(1, 100_000),
        default=15,
        metavar="MB",
        help="largest size of a piece, millions of bytes (default: 15)",
    )
    packing.add_argument("--device", default="auto", help="device of the training, and of --fp16's measurements")
    command_line.add_places(packing)

    merging = commands.add_parser("merge", help="take packed runs, teachers and checkpoints into this runs folder")
    merging.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="all pieces of one or several bundles, or folders of them"
    )
    command_line.add_places(merging)

    examined = commands.add_parser("doctor", help="say what is wrong on this machine and in a runs folder")
    examined.add_argument("--fix", action="store_true", help="fix what is safe to fix, and say what was done")
    command_line.add_places(examined)

    browse = commands.add_parser("ui", help="browse every run in MLflow")
    browse.add_argument(
        "--port",
        type=command_line.whole(1, 65535),
        default=5000,
        metavar="N",
        help="port of the server on this machine (default: 5000)",
    )
    command_line.add_places(browse)

    served = commands.add_parser("server", help="serve a tracking server that several machines share")
    served.add_argument(
        "--store",
        metavar="URL",
        help="its database, e.g. postgresql://USER@HOST/NAME (default: server/mlflow.db in the runs folder)",
    )
    served.add_argument("--host", default="127.0.0.1", help="address that it listens on (default: 127.0.0.1)")
    served.add_argument(
        "--port", type=command_line.whole(1, 65535), default=5000, metavar="N", help="its port (default: 5000)"
    )
    served.add_argument(
        "--auth", action="store_true", help="ask for user and password, which are made in server/auth on first use"
    )
    command_line.add_places(served)
    return made


def main(arguments: Sequence[str] | None, console: Console) -> int:
    """Run a command; return its exit code. Without a command, print the help."""
    made = parser()
    given = made.parse_args(arguments)
    if given.command is None:
        made.print_help()
        return command_line.EXIT_USER_ERROR
    if given.command == "list":
        return names.list_names(given.kind, console)
    if given.command == "show":
        names.check_shown(given.name)
    elif given.command == "status":
        command_line.check_names(given)
        if (progress := status.remembered(given)) is not None:
            progress.print(console)
            return 0
    elif given.command == "pack":
        command_line.check_names(given)
        command_line.check_suite_is_named(given)
        pieces.check_target(given.to)
    elif given.command == "merge":
        given.bundles = pieces.gather(given.files)
    elif given.command in ("prepare", "teachers"):
        given.dataset = catalogue.data_set(given.dataset)
    from benchmark.commands import look  # torch, MLflow, pandas: after everything that is refused without them

    return look.COMMANDS[given.command](given, console)


if __name__ == "__main__":
    command_line.run(main)
