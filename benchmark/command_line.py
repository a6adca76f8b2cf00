"""Arguments, console and error handling that all commands share. Nothing here imports torch before it is needed."""

from __future__ import annotations

import argparse
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

from rich.console import Console

from benchmark import catalogue, files, hyperparameters, logs, plugins, process
from benchmark.errors import UserError, among, nearest, one_line, shown, unprintable
from benchmark.execution.options import NO_CLAIMS, Options

#: stopped by the user; and by the deadline, with something left: EX_TEMPFAIL of sysexits.h, "try again"
EXIT_USER_ERROR, EXIT_STOPPED, EXIT_DEADLINE = 2, 130, 75
#: seconds before its deadline at which a command that has not ended yet is ended
LAST_S = 0.75
#: whether the process has a deadline: it then ends without the seconds that Python takes to tear torch and MLflow down
_ends_at_once = False
#: option of a process that is to end with the process that started it
END_WITH_STDIN = "--end-with-stdin"
#: bytes of a file's name on every usual file system
MAX_FILE_NAME_BYTES = 255


class Choices(Protocol):
    """A parsed command line that chooses a part of a suite."""

    suite: str
    pairs: list[str]
    methods: list[str]
    seeds: int | None
    profile: str | None
    assignments: list[str]


class Parser(argparse.ArgumentParser):
    """An argument parser whose error for an unknown option names the nearest known one, and that loads plugins.

    What it parses has `plugins` and `offline` in every command.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        add_common(self)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and load the plugins: names of all kinds are looked up afterwards. Raises UserError for a plugin."""
        given = super().parse_args(args, namespace)
        fields = vars(given)
        given.offline = fields.get("offline", False) or os.environ.get("BENCH_OFFLINE", "0") not in ("", "0")
        given.plugins = [path for key in list(fields) if key.startswith("plugins of ") for path in fields.pop(key)]
        plugins.load(given.plugins)
        return given

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            word = message.removeprefix(prefix).partition(" ")[0]  # empty for an empty argument
            message = f"unknown argument '{word}'{nearest(word, self.options())} (`{self.prog} --help` lists them)"
        elif "invalid choice: '" in message:
            word = message.split("invalid choice: '")[1].split("'")[0]
            known = [str(choice) for action in self._actions for choice in action.choices or ()]
            message = f"unknown word '{word}'{among(word, known)}"
        print(f"error: {one_line(message)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)

    def options(self) -> set[str]:
        """All options of this parser and of its commands."""
        commands = [
            choice for action in self._actions if isinstance(action.choices, dict) for choice in action.choices.values()
        ]
        own = {option for action in self._actions for option in action.option_strings}
        return own.union(*(command.options() for command in commands))


class _Version(argparse.Action):
    """Print the version and end; the commit is asked for only then."""

    def __call__(self, *_: object) -> NoReturn:
        print(process.version())
        sys.exit(0)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has: here, and nowhere else."""
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and the git commit, and exit")
    parser.add_argument(
        "--plugin",
        dest=f"plugins of {parser.prog}",  # of its own for a command of a command, which would hide the other's
        action="append",
        default=[],
        type=Path,
        metavar="FILE.py",
        help="a file that registers methods, networks, data sets or suites of your own (repeatable)",
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        default=argparse.SUPPRESS,  # a command of a command would set it back
        help="download nothing: name what is missing and where to put it (the same: BENCH_OFFLINE=1)",
    )


def check_names(given: argparse.Namespace) -> None:
    """Refuse unknown names of suites, profiles, pairs, methods, fields, studies and sections before heavy imports.

    What is left of a mistake, such as a value of `--set`, is refused by what reads it.
    """
    named = vars(given)
    if named.get("suite") is not None:
        catalogue.check_suite(given.suite, named.get("profile"))
    for method in named.get("methods", ()):
        catalogue.check_method(method)
    for pair in [*named.get("pairs", ()), *filter(None, [named.get("pair")])]:
        for model in pair.split(":", 1) if ":" in pair else ():
            catalogue.check("models", model)
    for assignment in named.get("assignments", ()):
        hyperparameters.check_assignment(assignment)
    if named.get("study") is not None:
        catalogue.check("studies", given.study)
    if "device" in named:
        check_device(given.device)
    if named.get("ray_address") is not None and given.engine != "ray":
        raise UserError(f"--ray-address {given.ray_address}: only --engine ray joins a cluster; add it")
    for section in named.get("sections", ()):
        catalogue.check("sections", section)


def check_suite_is_named(given: argparse.Namespace) -> None:
    """Raise UserError when a part is chosen of a suite that is not named."""
    chosen = [("--pairs", given.pairs), ("--methods", given.methods), ("--seeds", given.seeds)]
    chosen += [("--profile", given.profile), ("--set and the like", given.assignments)]
    for option, value in chosen:
        if value and given.suite is None:
            raise UserError(f"{option}: name the suite that it chooses a part of, e.g. digits")


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add the options for folders: `--runs` and `--data`."""
    parser.add_argument(
        "--runs",
        type=folder,
        default=os.environ.get("BENCH_RUNS", "runs"),
        metavar="DIR",
        help="folder for all outputs (default: runs)",
    )
    parser.add_argument(
        "--data",
        type=folder,
        default=os.environ.get("BENCH_DATA", "data"),
        metavar="DIR",
        help="folder that holds the data sets (default: data)",
    )


_METHODS = "distillers, and groups of them: " + ", ".join(
    f"{group} ({words})" for group, words in catalogue.METHOD_GROUPS.items()
)


def add_choices(parser: argparse.ArgumentParser, suite: str | None = "digits", without: str = "") -> None:
    """Add the options that choose a part of a suite: by default `suite`, or what `without` says in words."""
    about = f"a suite's name or a path to its .yaml{without and f' (default: {without})'}"
    parser.add_argument("suite", nargs="?", default=suite, metavar="SUITE", help=about)
    parser.add_argument("--pairs", type=words, default=[], metavar="T:S,...", help="teacher:student pairs")
    parser.add_argument("--methods", type=words, default=[], metavar="M,...", help=_METHODS)
    parser.add_argument("--seeds", type=seeds, metavar="N", help="repetitions per method")
    parser.add_argument("--profile", metavar="NAME", help="a variant that the suite defines, e.g. smoke, a small one")
    add_assignments(parser)
    parser.add_argument(
        "--amp",
        dest="assignments",
        action="append_const",
        const="precision=bf16",
        help="train students and run teachers under bf16 autocast (losses stay fp32)",
    )
    parser.add_argument(
        "--compile",
        dest="assignments",
        action="append_const",
        const="compile=true",
        help="torch.compile the students' feature maps",
    )

    parser.add_argument(
        "--gpus",
        dest="assignments",
        action="append",
        type=lambda text: f"ranks={parallel(text)}",
        metavar="N",
        help="GPUs (on a CPU: processes) that train every student together, each on a share of every minibatch",
    )
    parser.add_argument(
        "--cache",
        dest="assignments",
        action="append_const",
        const="teacher_cache=fp16",
        help="keep teachers' outputs for every view on disk (fp16), for these and all later runs",
    )


def add_assignments(parser: argparse.ArgumentParser, example: str = "sdd.beta=4 or recipe.epochs=60") -> None:
    """Add the option `--set`."""
    parser.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"change a field, e.g. {example} (repeatable)",
    )


def add_cache_limit(parser: argparse.ArgumentParser) -> None:
    """Add the option that bounds view caches."""
    parser.add_argument(
        "--cache-gb",
        type=amount("gigabytes"),
        metavar="GB",
        help="largest size of a teacher's view cache (default: half of the free disk space)",
    )


def words(text: str) -> list[str]:
    """Split names at commas and spaces."""
    return [word for word in text.replace(",", " ").split() if word]


def folder(text: str) -> Path:
    """Read an argument that names a folder; it need not exist, but must be able to."""
    try:
        path = Path(text)
        places = [files.resolved(path), *path.resolve().parents]
        there = next(place for place in places if place.exists())
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, links in a circle, a NUL
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"{shown(text)} cannot be a folder: {reason}") from error
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{shown(text)}: {there} is a file, not a folder")
    if fault := unprintable(str(places[0])):
        raise argparse.ArgumentTypeError(f"{shown(text)}: its name {fault}")
    for place in places:
        if len(os.fsencode(place.name)) > MAX_FILE_NAME_BYTES:
            raise argparse.ArgumentTypeError(f"{shown(text)}: a name has over {MAX_FILE_NAME_BYTES} bytes")
    return path


def whole(low: int, high: int) -> Callable[[str], int]:
    """Make the type of an argument that is a whole number from `low` to `high`."""

    def read(text: str) -> int:
        digits = text.lstrip("0") or "0" if text.isascii() and text.isdigit() else ""
        # longer numbers are not converted: Python refuses thousands of digits
        if not digits or len(digits) > 18 or not low <= int(digits) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low:,} to {high:,}, got {shown(text)}")
        return int(digits)

    return read


def amount(unit: str) -> Callable[[str], float]:
    """Make the type of an argument that is a finite amount, 0 or more, of a unit."""

    def read(text: str) -> float:
        try:
            size = float(text)
        except ValueError:
            size = math.nan
        if not 0 <= size < math.inf:
            raise argparse.ArgumentTypeError(f"must be a number of {unit}, 0 or more, got {shown(text)}")
        return size

    return read


def claims(text: str) -> str:
    """Read an argument that names a database of leases, or `none`."""
    if text != NO_CLAIMS and not re.fullmatch(r"sqlite:///[^?]+|postgresql(\+psycopg)?://.+", text):
        raise argparse.ArgumentTypeError(
            f"must be postgresql://USER@HOST/NAME, sqlite:////PATH/claims.db or {NO_CLAIMS}, got {shown(text)}"
        )
    return text


def ray_address(text: str) -> str:
    """Read an argument that names a Ray cluster: `auto`, the one of this machine, or HOST:PORT."""
    if re.fullmatch(r"auto|[^\s:/]+:[0-9]{1,5}", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"must be auto or HOST:PORT, got {shown(text)}")
    return text


_DURATION = re.compile(r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")


def duration(text: str) -> float:
    """Read an argument that is a time with its units, `90s`, `9m` or `1h30m`, as seconds."""
    found = _DURATION.fullmatch(text)
    if found is None or not text:
        raise argparse.ArgumentTypeError(f"must be a time with its units, such as 90s, 9m or 1h30m, got {shown(text)}")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    if not (total := 3600 * hours + 60 * minutes + seconds):
        raise argparse.ArgumentTypeError(f"must be longer than nothing, got {shown(text)}")
    return float(total)


#: processes and threads: more than any machine has
parallel = whole(1, 1024)
seeds = whole(1, catalogue.MAX_SEEDS)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the options for the device, workers, threads and engine."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: auto)")
    parser.add_argument(
        "--workers",
        type=parallel,
        metavar="N",
        help="cohorts that train at the same time (default: one per core on a CPU, one per GPU)",
    )
    parser.add_argument(
        "--threads",
        type=parallel,
        default=1,
        metavar="N",
        help="threads per worker; results are bit-equal only at the same number (default: 1)",
    )
    parser.add_argument(
        "--force-bf16",
        action="store_true",
        help="compute in bf16 even on a CPU where it is slower than fp32",
    )
    parser.add_argument(
        "--engine",
        choices=list(catalogue.known("engines").entries),
        default="local",
        help="where cohorts train: worker processes of this machine (local), this process (inline), or machines of a"
        " Ray cluster (ray); default: local",
    )
    parser.add_argument(
        "--ray-address",
        type=ray_address,
        metavar="ADDRESS",
        help="with --engine ray: the cluster to join, auto or HOST:PORT; --workers then counts cohorts on all of its"
        " machines (default: a Ray of its own on this machine)",
    )
    parser.add_argument(
        "--patience",
        dest="patience_s",
        type=amount("seconds"),
        default=600.0,
        metavar="SECONDS",
        help="how long training continues while the tracking store cannot be reached (default: 600)",
    )
    parser.add_argument(
        "--claims",
        type=claims,
        default=os.environ.get("BENCH_CLAIMS"),
        metavar="URL",
        help="database of leases, so that machines which share a tracking store train each run once:"
        " postgresql://USER@HOST/NAME, sqlite:////PATH/claims.db, or none (default: where MLFLOW_TRACKING_URI is a"
        " SQLite file outside the runs folder, claims.db beside it; else none)",
    )
    parser.add_argument(
        "--deadline",
        dest="deadline_s",
        type=duration,
        metavar="TIME",
        help="end within this time of the start, e.g. 90s, 9m or 1h30m, with everything saved; exit code 75 when"
        " runs are left, which the same command resumes",
    )


@contextmanager
def ended_in_time(given: argparse.Namespace) -> Iterator[None]:
    """Set the moment of the command's deadline, and end the process just before it if it has not ended by itself.

    That loses what killing the process would: the steps since the last checkpoints, no more.
    """
    given.deadline = None
    if given.deadline_s is None:
        yield
        return
    global _ends_at_once
    _ends_at_once = True
    given.parsed = time.monotonic()
    given.deadline = given.parsed - process.age_s() + given.deadline_s
    timer = threading.Timer(given.deadline - LAST_S - time.monotonic(), _end_now)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_now() -> NoReturn:
    print("the deadline came before everything was written; the same command resumes", file=sys.stderr, flush=True)
    os._exit(EXIT_DEADLINE)


def choices_of(given: argparse.Namespace) -> list[str]:
    """The arguments that choose the same runs in another command."""
    suite, *rest = settings_of(given, given.suite)
    narrowed = [("--pairs", given.pairs), ("--methods", given.methods)]
    return [suite, *(word for option, names in narrowed if names for word in (option, ",".join(names))), *rest]


def settings_of(given: argparse.Namespace, suite: str) -> list[str]:
    """The arguments that choose all pairs and methods of a suite under the same settings, the suite first."""
    words = [suite]
    words += ["--profile", given.profile] if given.profile else []
    words += ["--seeds", str(given.seeds)] if given.seeds else []
    for assignment in given.assignments:
        words += ["--set", assignment]
    return [*words, *places_of(given)]


def places_of(given: argparse.Namespace) -> list[str]:
    """The arguments that name the same folders and plugins."""
    words = []
    for option in ("runs", "data"):
        place = getattr(given, option)
        words += [f"--{option}", str(place)] if place != Path(option) else []
    for file in given.plugins:
        words += ["--plugin", str(file)]
    return words


def options_of(given: argparse.Namespace) -> Options:
    """Make the Options of a parsed command; an option that the command does not have keeps its default.

    Raises:
        UserError: for a device that this machine does not have.
    """
    named = vars(given)
    device, threads = resolve_device(named.get("device", "cpu")), named.get("threads", 1)
    others: dict[str, Any] = {
        name: named[name]
        for name in (
            "engine",
            "ray_address",
            "retry_failed",
            "force_bf16",
            "cache_gb",
            "patience_s",
            "offline",
            "deadline",
            "claims",
        )
        if name in named
    }
    others.setdefault("claims", os.environ.get("BENCH_CLAIMS"))
    if others.get("deadline") is not None:  # torch and MLflow are there by now
        others["imports_s"] = time.monotonic() - given.parsed
    return Options(
        runs=given.runs.resolve(),
        data_root=given.data.resolve(),
        device=device,
        threads=threads,
        workers=named.get("workers") or default_workers(device, threads),
        **others,
    )


def check_device(name: str) -> None:
    """Raise UserError for a name that no device has."""
    if re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name) is None:
        raise UserError(f"--device {name}: no such device; use cpu, cuda or cuda:N")


def resolve_device(name: str) -> str:
    """Resolve `auto`, and check any other name. Raises UserError for a device that this machine does not have."""
    check_device(name)
    if name == "cpu":
        return name
    import torch  # only the driver knows which devices there are

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if (torch.device(name).index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu")
    return name


def for_ranks(options: Options, given: argparse.Namespace, ranks: int) -> Options:
    """Options of a command whose plan trains every student by so many processes: its default of workers is smaller."""
    if ranks == 1 or given.workers is not None:
        return options
    return replace(options, workers=default_workers(options.device, options.threads, ranks))


def default_workers(device: str, threads: int, ranks: int = 1) -> int:
    """Default number of cohorts that train at the same time, each on `ranks` visible GPUs or times `threads` cores.

    A device with a number, `cuda:1`, is one GPU.
    """
    if device == "cpu":
        return max(1, process.available_cores() // (threads * max(1, ranks)))
    from benchmark import machine  # it imports torch, which alone knows how many GPUs there are

    return max(1, machine.num_gpus() // max(1, ranks)) if device == "cuda" else 1


def run(main: Callable[[Sequence[str] | None, Console], int]) -> None:
    """Run a command's main function; a UserError is printed as one line and exits with code 2, without a traceback.

    SIGTERM is treated like Ctrl-C.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    global _ends_at_once
    _ends_at_once = False
    console = logs.LoggedConsole(markup=False, highlight=False)  # names such as cub200[50 classes] are not markup
    if not console.is_terminal:
        console.width = 140  # tables in logs and pipes must not be folded to 80 columns
    try:
        code = main(None, console)
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = EXIT_STOPPED
    except BrokenPipeError:
        code = 141
    sys.stdout.flush()
    if _ends_at_once:
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
