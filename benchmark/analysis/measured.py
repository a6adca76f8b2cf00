"""Results that the project measured and ships, `reports/measured/<suite>.csv`: one row per run, checked on load."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import AfterValidator, Field, NonNegativeFloat, StringConstraints, ValidationError, model_validator

import distillers
from benchmark.analysis.numbers import finite, two_decimals, unmarked_spread
from benchmark.analysis.scores import Scores, scores
from benchmark.config import Epochs, Frozen, Precision, Seeds, Storage, Title, explain
from benchmark.errors import UserError, shown
from benchmark.plan.resolve import Plan
from benchmark.plan.suite import Pair

#: the folder of the checkout that holds the files
FOLDER = Path(__file__).parents[2] / "reports" / "measured"
DATE = "%Y-%m-%dT%H:%M:%SZ"
#: runs that a note names one by one
_MAX_NAMED = 3


def _is_date(text: str) -> str:
    try:
        datetime.strptime(text, DATE)
    except ValueError:
        raise ValueError("a time in UTC, such as 2026-01-31T23:59:59Z") from None
    return text


Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Checksum = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Accuracy = Annotated[float, Field(ge=0, le=100)]
Date = Annotated[str, AfterValidator(_is_date)]


class MeasuredRun(Frozen):
    """A run that ended: a row of a file, whose columns are these fields. Accuracies are in percent, never rounded."""

    signature: Hash
    #: `RunConfig.settings_hash`
    configuration: Hash
    #: name of the images, e.g. `cub200[50 classes]`
    dataset: Title
    data_digest: Checksum
    #: None for a student alone, as all that is about a teacher
    teacher: Title | None
    student: Title
    method: Title
    seed: Seeds
    status: Literal["finished", "failed"]
    last: Accuracy | None
    best_test: Accuracy | None
    epochs: Epochs
    teacher_checksum: Checksum | None
    #: None where the teacher is not stored beside the runs
    teacher_top1: Accuracy | None
    teacher_precision: Precision | None
    teacher_cache: Storage | None
    device: Title
    #: what the numbers depend on, as `machine.describe_numerics` writes it; None for runs of before it was recorded
    machine: Title | None
    commit: Title
    #: whether the checkout had changes that the commit does not hold
    dirty: bool
    #: start of the run
    date: Date
    train_seconds: NonNegativeFloat | None
    #: of the packages that the numbers depend on
    versions: Title | None
    #: the reason of a failed run
    failure: Title | None

    @model_validator(mode="after")
    def _is_whole(self) -> MeasuredRun:
        accuracies = [self.last, self.best_test]
        if self.status == "finished" and None in accuracies:
            raise ValueError("a finished run has last and best_test")
        if self.status == "failed" and accuracies != [None, None]:
            raise ValueError("a failed run has neither last nor best_test")
        if (self.teacher is None) != (self.teacher_checksum is None):
            raise ValueError("a teacher has a teacher_checksum, and a student alone has none")
        return self

    @property
    def is_finished(self) -> bool:
        """Whether the run has a result."""
        return self.status == "finished"

    @property
    def label(self) -> str:
        """Readable name of the run: `resnet8x4 -> resnet8, sdd_kd, seed 2`."""
        return f"{f'{self.teacher} -> ' if self.teacher else ''}{self.student}, {self.method}, seed {self.seed}"


COLUMNS = tuple(MeasuredRun.model_fields)


def path_of(suite: str, folder: Path | None = None) -> Path:
    """The file of a suite's measured runs, in `folder` or else in the checkout."""
    return (folder or FOLDER) / f"{suite}.csv"


def load(path: Path) -> list[MeasuredRun]:
    """Read and check a file; none is a file without rows.

    Raises:
        UserError: for a damaged file, naming the line and the column.
    """
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _fault(path, line, "is not text in UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; make it readable, or delete it") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, int] = {}
    runs = []
    try:
        _check_header(path, next(reader, []))
        for cells in reader:
            runs.append(_run(path, reader.line_num, cells))
            signature, first = runs[-1].signature, found.setdefault(runs[-1].signature, reader.line_num)
            if first != reader.line_num:
                raise _fault(path, reader.line_num, f"column signature: {signature} is that of line {first} too")
    except csv.Error as error:
        raise _fault(path, reader.line_num, f"is not CSV: {error}") from error
    return runs


def _check_header(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if name not in COLUMNS:
            raise _fault(path, 1, f"column {shown(name)} is unknown; the columns are {', '.join(COLUMNS)}")
    for name in COLUMNS:
        if name not in names:
            raise _fault(path, 1, f"column {name} is missing")
    if tuple(names) != COLUMNS:
        raise _fault(path, 1, f"the columns are {', '.join(COLUMNS)}, each once and in this order")


def _run(path: Path, line: int, cells: Sequence[str]) -> MeasuredRun:
    if len(cells) != len(COLUMNS):
        raise _fault(path, line, f"has {len(cells)} cells where {len(COLUMNS)} belong")
    try:
        return MeasuredRun.model_validate({name: cell or None for name, cell in zip(COLUMNS, cells, strict=True)})
    except ValidationError as error:
        where = "column " if error.errors()[0]["loc"] else ""
        raise _fault(path, line, f"{where}{explain(error, MeasuredRun)}") from error


def _fault(path: Path, line: int, what: str) -> UserError:
    return UserError(f"{path}, line {line}: {what}; fix that line, or restore the file: git checkout -- {path}")


def to_csv(runs: Iterable[MeasuredRun]) -> str:
    """Write a file's text: sorted, and every number so that it is read back as it was."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in sorted(runs, key=_order):
        writer.writerow([_written(value) for value in run.model_dump().values()])
    return text.getvalue()


def _order(run: MeasuredRun) -> tuple[str | int, ...]:
    return run.teacher or "", run.student, run.method, run.configuration, run.seed, run.signature


def _written(value: str | float | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)


@dataclass(frozen=True)
class Measured:
    """The measured runs that have the settings of a plan."""

    suite: str = ""
    runs: tuple[MeasuredRun, ...] = ()
    #: runs of the same settings under other teachers or on other images, which are not mixed with `runs`
    num_left_out: int = 0
    #: methods of the file that this version does not know
    unknown: tuple[str, ...] = ()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per run, in the columns of `results.frame` that `scores` reads."""
        made = pd.DataFrame([run.model_dump() for run in self.runs], columns=list(COLUMNS))
        return made.assign(run_id=made["signature"], repetition=made["seed"], status=made["status"].str.upper())

    def __bool__(self) -> bool:
        return bool(self.runs)

    @property
    def place(self) -> str:
        """The file, as seen from the checkout."""
        return f"reports/measured/{self.suite}.csv"

    def scores(self, pair: Pair, method: str, column: str = "last") -> Scores:
        """Read a figure of a method's finished runs on a pair, one per seed."""
        return scores(self.frame, pair, method, column)

    def text(self, pair: Pair, method: str, column: str = "last") -> str:
        """Write a figure's mean and standard deviation with its number of seeds."""
        values = self.scores(pair, method, column).values
        return unmarked_spread(values) + (f" n={len(values)}" if values else "")

    def summary(self) -> str:
        """Describe the runs: how many, on which devices, at which commits, under which teachers."""
        failed = sum(not run.is_finished for run in self.runs)
        devices, commits = ({getattr(run, name) for run in self.runs} for name in ("device", "commit"))
        teachers = {run.teacher: run.teacher_top1 for run in self.runs if run.teacher is not None}
        shown_commits = ", ".join(sorted(commit[:12] for commit in commits))
        changed = sum(run.dirty for run in self.runs)
        return (
            f"{len(self.runs)} run{'s' * (len(self.runs) > 1)}{f', {failed} failed,' if failed else ''} on"
            f" {', '.join(sorted(devices))}, commit {shown_commits}"
            + (f" ({changed} from a changed checkout)" if changed else "")
            + "".join(f", teacher {name} {two_decimals(teachers[name])}" for name in sorted(teachers))
        )

    def notes(self, frame: pd.DataFrame) -> Iterator[str]:
        """Yield notes for a table that shows these runs beside one's own, those of `frame`."""
        if self:
            yield f"measured: by the project under these settings, {self.place}: {self.summary()}; n: seeds."
        if self.num_left_out:
            yield (
                f"{self.num_left_out} more measured runs of these settings, under other teachers or on other images,"
                " are left out."
            )
        if self.unknown:
            yield f"{self.place} has rows of methods that this version does not know: {', '.join(self.unknown)}."
        yield from self._failures_to_reproduce(frame)

    def _failures_to_reproduce(self, frame: pd.DataFrame) -> Iterator[str]:
        """Name the runs that came out differently on the same kind of machine, where they should be equal."""
        theirs = {(run.teacher, run.student, run.method, run.seed): run for run in self.runs if run.is_finished}
        columns = ["teacher", "student", "method", "repetition", "last", "best_test", "machine", "teacher_checksum"]
        mine = frame[frame["status"] == "FINISHED"].reindex(columns=columns)
        num_compared, other_teacher, named = 0, 0, list[str]()
        for row in mine.to_dict("records"):
            teacher = row["teacher"] if isinstance(row["teacher"], str) else None  # NaN for a student alone
            run = theirs.get((teacher, row["student"], row["method"], int(row["repetition"])))
            if run is None or run.machine is None or run.machine != row["machine"]:
                continue
            num_compared += 1
            ours = {name: finite(row[name]) for name in ("last", "best_test")}
            differing = [name for name, value in ours.items() if value not in (None, getattr(run, name))]
            if differing:
                checksum, first = row["teacher_checksum"], differing[0]
                other_teacher += isinstance(checksum, str) and checksum != (run.teacher_checksum or checksum)
                named.append(f"{run.label}: {first} {ours[first]!r}, measured {getattr(run, first)!r}")
        if named:
            more = f"; and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
            weights = f", {other_teacher} of them under a teacher with other weights" if other_teacher else ""
            yield (
                f"Not reproduced: {len(named)} of {num_compared} runs differ from the same run that the project"
                f" measured on the same kind of machine{weights}. {'; '.join(named[:_MAX_NAMED])}{more}."
            )


def of_plan(runs: Sequence[MeasuredRun], plan: Plan, dataset: str, data_digest: str = "") -> Measured:
    """Choose the runs that have a plan's settings: of one set of images, and of one teacher of every name.

    `dataset` is the name of the images, e.g. `cub200[50 classes]`, and `data_digest` their digest where it is known;
    otherwise the images with the most runs of that name are chosen, as always of several teachers the one with the most
    runs. So nothing is averaged over teachers, or over how their outputs were rounded.
    """
    settings = {
        key: config.settings_hash
        for key, config in {(c.teacher, c.student, c.method): c for c in (run.config for run in plan.runs)}.items()
    }
    alike = [
        run
        for run in runs
        if settings.get((run.teacher, run.student, run.method)) == run.configuration and run.dataset == dataset
    ]
    images = data_digest or _most_frequent(run.data_digest for run in alike)
    here = [run for run in alike if run.data_digest == images]
    chosen = {
        teacher: _most_frequent(_teaching(run) for run in here if run.teacher == teacher)
        for teacher in {run.teacher for run in here}
    }
    kept = tuple(run for run in here if _teaching(run) == chosen[run.teacher])
    return Measured(
        plan.suite.name,
        kept,
        len(alike) - len(kept),
        tuple(sorted({run.method for run in runs if run.method not in distillers.registry})),
    )


def _teaching(run: MeasuredRun) -> tuple[str | None, ...]:
    return run.teacher_checksum, run.teacher_precision, run.teacher_cache


def _most_frequent(values: Iterable[object]) -> object:
    """The most frequent value, the first of equals; None without any."""
    return next((value for value, _ in Counter(values).most_common(1)), None)
