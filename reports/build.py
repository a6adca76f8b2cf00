"""From a plan and what is tracked to a report: gather, make the sections, write them. Gathering changes nothing."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from benchmark import datasets, files, machine, results
from benchmark.analysis.table import Table
from benchmark.errors import UserError, among
from benchmark.plan.resolve import Plan, PlannedRun
from benchmark.tracking import Tracked, Tracker
from benchmark.train import teacher_store
from benchmark.train.teacher_store import Manifest
from reports import pdf, scores, sections, style
from reports.base import Block, Context, Drawing, Listing, Section, Text, in_order
from reports.pdf import Part

__all__ = ["Report", "chosen_sections", "gather", "log", "make", "sections", "write"]

#: a database may hold hundreds of bad runs: the rest are counted
_MAX_PROBLEMS = 20
#: more runs behind a cell than a page can set side by side have no link; cells.csv names them
_MAX_LINKED = 20
#: name of the report's run in MLflow
RUN_NAME = "report"
#: figures of a finished run without which it says nothing
_HEADLINE = ("last", "best_test")


@dataclass(frozen=True)
class Report:
    """A report that was made, before it is written."""

    slug: str
    title: str
    subtitle: str
    head: str
    commit: str
    about: Mapping[str, str]
    parts: tuple[Part, ...]
    link: pdf.Link
    #: seconds since 1970 of the newest run: the same data has the same time
    timestamp: int
    problems: tuple[str, ...]
    #: sections that could not be made, one line each
    faults: tuple[str, ...]


# --- gathering


@dataclass(frozen=True)
class _Match:
    """A plan on one set of images: its runs' signatures, and what is tracked on the images."""

    plan: Plan
    digest: str
    tracked: Sequence[Tracked]
    manifests: Mapping[str, Manifest]
    planned: tuple[tuple[PlannedRun, str | None], ...]

    @property
    def num_found(self) -> int:
        known = {run.signature for run in self.tracked}
        return sum(signature in known for _, signature in self.planned)


def gather(
    plans: Sequence[Plan],
    tracker: Tracker | None,
    runs: Path,
    data_root: Path,
    *,
    server: str | None = None,
    arguments: Sequence[str] = (),
) -> Context:
    """Return what is known of a suite, of its plan that most tracked runs answer to.

    `plans` are one choice of a command line, resolved for different devices. Images are not loaded: which ones the
    suite ran on is read from its runs and teachers.
    """
    problems: list[str] = []
    plan = plans[0]
    known = _manifests(runs / "teachers", problems)
    matches = [_match(plan, "", (), known)]
    digests: list[str] = []
    # stored teachers say which images; to ask every run of the suite takes seconds where there are thousands
    for of_teachers in (True, False):
        found = _digests(plan, known) if of_teachers else _digests_of_runs(tracker, plan)
        new = [digest for digest in dict.fromkeys(found) if digest and digest not in digests]
        digests += new
        for digest in new:
            tracked = _tracked_on(tracker, digest, problems)
            matches += [_match(one, digest, tracked, known) for one in plans]
        if any(match.num_found for match in matches):
            break
    # the first of equals: images that are known before none, and the newest
    best = max(matches, key=lambda match: (match.num_found, bool(match.tracked), bool(match.digest)))
    if tracker is None:
        problems.append(f"Nothing is tracked under {runs}: no run was made here yet, or --runs names another folder.")
    elif not best.digest:
        problems.append(f"The tracking store holds no run of {plan.name}, and there is no teacher of it.")
    elif not best.num_found:
        problems.append(
            f"None of the {len(best.tracked)} runs on these images has the settings of this plan: they were made under"
            " other settings or by an older version."
        )
    others = {match.digest for match in matches if match.num_found} - {best.digest}
    if others:
        problems.append(
            f"Runs of this plan exist on {len(others) + 1} sets of images; this report is of {best.digest[:12]}, which"
            " has the most."
        )
    problems += _missing_data(best.plan, data_root, runs)
    frame = _frame(best, problems)
    return Context(
        plan=best.plan,
        dataset=_dataset(best),
        tracked=tuple(best.tracked),
        frame=frame,
        teachers=best.manifests,
        runs=runs,
        data_root=data_root,
        tracker=tracker,
        server=server,
        problems=_shortened(problems),
        data_digest=best.digest,
        planned=best.planned,
        arguments=tuple(arguments),
    )


def _digests_of_runs(tracker: Tracker | None, plan: Plan) -> list[str]:
    """Return the images of the runs in the suite's experiment, newest first."""
    if tracker is None:
        return []
    with tracker.named_errors():
        experiment = tracker.experiments().get(plan.slug)
        runs = tracker.runs_in([experiment]) if experiment is not None else []
    return [run.tags.get("data_digest", "") for run in runs]


def _tracked_on(tracker: Tracker | None, digest: str, problems: list[str]) -> list[Tracked]:
    if tracker is None:
        return []
    with tracker.named_errors():
        return _readable(tracker.runs_on(digest), problems)


def _readable(tracked: Sequence[Tracked], problems: list[str]) -> list[Tracked]:
    """Return the runs that this project made; a run of another origin may have any tags."""
    kept = []
    for run in tracked:
        missing = [tag for tag in ("student", "distiller", "seed") if tag not in run.tags]
        epochs = run.params.get("recipe.epochs", "0")
        if missing:
            problems.append(f"Run {run.run_id} has no tag {', '.join(missing)}: left out.")
        elif not run.tags["seed"].isdigit() or not epochs.isdigit():
            problems.append(f"Run {run.run_id}: its seed or number of epochs is no number: left out.")
        else:
            kept.append(run)
    return kept


def _manifests(folder: Path, problems: list[str]) -> list[Manifest]:
    found: list[Manifest] = []
    try:
        for _, manifest in teacher_store.manifests(folder):
            found.append(manifest)  # what was read before a damaged one counts
    except UserError as error:
        problems.append(f"Teachers: {error}.")
    return found


def _digests(plan: Plan, manifests: Sequence[Manifest]) -> list[str]:
    """Return the images that teachers of this plan were trained on."""
    usable = (one for one in manifests if one.model in plan.teachers and one.dataset.startswith(plan.data.name))
    return [manifest.data_digest for manifest in usable]


def _match(plan: Plan, digest: str, tracked: Sequence[Tracked], manifests: Sequence[Manifest]) -> _Match:
    on_these = [manifest for manifest in manifests if digest and manifest.data_digest == digest]
    known = {run.signature for run in tracked}
    checksums = {model: _checksum(plan, model, digest, on_these, tracked, known) for model in plan.teachers}
    planned = tuple((run, _signature(run, digest, checksums)) for run in plan.runs)
    stored = {one.model: one for one in on_these if one.checksum == checksums.get(one.model)}
    return _Match(plan, digest, tracked, stored, planned)


def _checksum(
    plan: Plan, model: str, digest: str, manifests: Sequence[Manifest], tracked: Sequence[Tracked], known: set[str]
) -> str | None:
    """Return the teacher that the plan's runs had: as `teachers.find`; where its files are elsewhere, as runs say."""
    own = plan.teachers[model].signature(digest, None) if digest else ""
    stored = {one.signature: one.checksum for one in manifests if one.model == model}
    in_use = stored.get(None) or stored.get(own)
    if in_use:
        return in_use
    tagged = Counter(run.tags.get("teacher_checksum") for run in tracked if run.tags.get("teacher") == model)
    candidates = [checksum for checksum, _ in tagged.most_common() if checksum]

    def num_found(checksum: str) -> int:
        mine = (run for run in plan.runs if run.config.teacher == model)
        return sum(run.config.signature(digest, checksum) in known for run in mine)

    return max(candidates, key=num_found) if candidates else None


def _signature(run: PlannedRun, digest: str, checksums: Mapping[str, str | None]) -> str | None:
    teacher = run.config.teacher
    if not digest or (teacher is not None and checksums[teacher] is None):
        return None
    return run.config.signature(digest, checksums[teacher] if teacher else None)


def _dataset(match: _Match) -> str:
    wanted = {signature for _, signature in match.planned}
    of_plan = [run.tags["dataset"] for run in match.tracked if run.signature in wanted and "dataset" in run.tags]
    named = of_plan or [run.tags["dataset"] for run in match.tracked if "dataset" in run.tags]
    named += [manifest.dataset for manifest in match.manifests.values()]
    return named[0] if named else match.plan.data.name


def _frame(match: _Match, problems: list[str]) -> pd.DataFrame:
    """Return one row per run of the plan, with its parameters; what is no finite number is NaN, and a problem."""
    signatures = {signature for _, signature in match.planned if signature is not None}
    frame = results.frame(match.tracked, signatures)
    for name in ("last", "best_test", "best_val", "train_seconds"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
        frame.loc[~frame[name].map(math.isfinite), name] = math.nan
    finished = frame[frame["status"] == "FINISHED"]
    for row in finished[finished[list(_HEADLINE)].isna().any(axis=1)].itertuples():
        problems.append(
            f"Run {row.run_id} ({row.student}, {row.method}, seed {row.repetition}) is finished, but has no number for"
            f" {' and '.join(name for name in _HEADLINE if math.isnan(getattr(row, name)))}: it is not counted there."
        )
    return scores.with_parameters(frame, match.tracked)


def _missing_data(plan: Plan, data_root: Path, runs: Path) -> list[str]:
    """Return what is said where the folder of all data is empty and the images are not embedded."""
    if plan.data.options or (data_root.is_dir() and any(data_root.iterdir())):
        return []  # to look further would decode all images
    try:
        datasets.load(plan.data, data_root, runs / "cache")
    except UserError as error:
        return [f"The images of {plan.data.name} are not here: {error}."]
    return []


def _shortened(problems: Sequence[str]) -> tuple[str, ...]:
    unique = list(dict.fromkeys(problems))
    rest = len(unique) - _MAX_PROBLEMS
    return (*unique[:_MAX_PROBLEMS], *([f"And {rest} more of this kind."] if rest > 0 else []))


# --- making


def chosen_sections(names: Sequence[str]) -> list[Section]:
    """Return these sections in the order of the report, or all of them.

    Raises:
        UserError: for an unknown name, with the nearest.
    """
    known = {one.name: one for one in in_order()}
    for name in names:
        if name not in known:
            raise UserError(f"unknown section '{name}'{among(name, known)} (`python -m reports --list`)")
    return [one for name, one in known.items() if not names or name in names]


def make(context: Context, chosen: Sequence[Section]) -> Report:
    """Return the report of a suite. A section that fails is named in its place, and does not take the others."""
    parts, faults = [], []
    unique = _Names()
    for one in chosen:
        blocks, fault = _blocks(one, context)
        parts.append(Part(one.name, one.title, [unique.named(block) for block in blocks]))
        faults += [fault] if fault else []
    plan = context.plan
    made_from = checkout()
    return Report(
        slug=plan.file_name,
        title=plan.suite.title,
        subtitle=f"Suite {plan.name} on {context.dataset}: {_counted(context)}",
        head=f"{plan.name}, {context.dataset}",
        commit=f"report made at {made_from}",
        about=_about(context, made_from),
        parts=tuple(parts),
        link=linker(context),
        timestamp=newest(context.tracked),
        problems=context.problems,
        faults=tuple(faults),
    )


def checkout() -> str:
    """Return the commit that reports are made from now, in words."""
    commit, dirty = machine.git_state()
    return commit[:12] + (" (changed)" if dirty else "")


def newest(tracked: Sequence[Tracked]) -> int:
    """Return when the newest run began, in seconds since 1970; 0 without one."""
    return max((run.start_time for run in tracked), default=0) // 1000


def _blocks(one: Section, context: Context) -> tuple[Sequence[Block], str | None]:
    try:
        return list(one.make(context)), None
    except Exception as error:  # whatever it is, the other sections still say what they know
        fault = f"{one.name}: {type(error).__name__}: {error}"
        return [Text(f"This section could not be made. {fault}")], fault


class _Names:
    """Names of files that are unique in a report."""

    def __init__(self) -> None:
        self.used: Counter[tuple[type[Block], str]] = Counter()

    def named(self, block: Block) -> Block:
        """Return the block under a name that is safe as a file's, and not used before."""
        if isinstance(block, Text):
            return block
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", block.name).strip("-.") or "unnamed"
        self.used[type(block), name] += 1
        count = self.used[type(block), name]
        return replace(block, name=name if count == 1 else f"{name}-{count}")


def _counted(context: Context) -> str:
    finished = int((context.frame["status"] == "FINISHED").sum())
    return f"{finished} of {len(context.plan.runs)} planned runs are finished"


def _about(context: Context, made_from: str) -> dict[str, str]:
    commits = sorted({str(commit)[:12] for commit in context.frame["git_commit"].dropna()})
    few = ", ".join(commits[:4]) + (f" and {len(commits) - 4} more" if len(commits) > 4 else "")
    return {
        "Suite": context.plan.name,
        "Data": context.dataset + (f", digest {context.data_digest[:12]}" if context.data_digest else ""),
        "Commits of the runs": few or "none",
        "Commit of the report": made_from,
        "Runs": _counted(context),
        "Problems": str(len(context.problems)) if context.problems else "none",
    }


def linker(context: Context) -> pdf.Link:
    """Return the function that gives the address of runs in the tracking UI."""
    experiments = {run.run_id: run.experiment_id for run in context.tracked}
    server = (context.server or "").rstrip("/")

    def link(run_ids: tuple[str, ...]) -> str | None:
        known = [run_id for run_id in run_ids if run_id in experiments]
        if not server or not 0 < len(known) <= _MAX_LINKED:
            return None
        if len(known) == 1:
            return f"{server}/#/experiments/{experiments[known[0]]}/runs/{known[0]}"
        places = sorted({experiments[run_id] for run_id in known})
        return f"{server}/#/compare-runs?runs={quote(json.dumps(known))}&experiments={quote(json.dumps(places))}"

    return link


# --- writing


def write(report: Report, out: Path) -> Path:
    """Write the PDF beside a folder with its tables, figures and sources; return the path of the PDF."""
    folder = out / report.slug
    contents = dict(_files(report))
    _remove_old(folder, contents)
    for name, content in contents.items():
        files.write(folder / name, content)
    path = out / f"{report.slug}.pdf"
    files.write(path, pdf.compiled(folder, report.timestamp))
    return path


def _files(report: Report) -> Iterator[tuple[str, bytes]]:
    """Yield every file of a report's folder by name."""
    tables = [block for part in report.parts for block in part.blocks if isinstance(block, Listing)]
    names = []
    for listing in tables:
        writers: dict[str, Callable[[], str]] = {
            "md": listing.table.to_markdown,
            "tex": listing.table.to_latex,
            "csv": listing.table.to_csv,
        }
        for ending, writer in writers.items():
            names.append(f"tables/{listing.name}.{ending}")
            yield names[-1], writer().encode()
    for part in report.parts:
        for block in part.blocks:
            if isinstance(block, Drawing):
                for ending, picture in style.saved(block.figure).items():
                    names.append(f"figures/{block.name}.{ending}")
                    yield names[-1], picture
    yield "cells.csv", cells(tables).encode()
    content = pdf.content(
        report.title, report.subtitle, report.head, report.commit, report.about, report.parts, report.link
    )
    yield pdf.DATA, (json.dumps({**content, "files": names}, indent=1, ensure_ascii=False) + "\n").encode()
    yield pdf.SOURCE, pdf.template()


def cells(tables: Sequence[Listing]) -> str:
    """Return every cell of every table as CSV, with the runs behind it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", "column", "text", "run_ids"])
    for listing in tables:
        for row, column, shown, run_ids in _cells(listing.table):
            writer.writerow([listing.name, row, column, shown, " ".join(run_ids)])
    return text.getvalue()


def _cells(table: Table) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    for section in table.sections:
        for row in section.rows:
            name = " / ".join(filter(None, (section.title, row.cells[0].text)))
            for column, cell in zip(table.columns, row.cells, strict=True):
                yield name, column.header, cell.text, cell.run_ids


def _remove_old(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Remove what an earlier report wrote here and this one does not: only files that it names as its own."""
    try:
        old = json.loads((folder / pdf.DATA).read_text()).get("files", [])
    except (OSError, ValueError, AttributeError):
        return
    for name in old:
        if isinstance(name, str) and re.fullmatch(r"(tables|figures)/[A-Za-z0-9._-]+", name) and name not in contents:
            (folder / name).unlink(missing_ok=True)


def log(context: Context, path: Path) -> str | None:
    """Store the report with the suite's experiment; return a line that says why it could not, or None."""
    if context.tracker is None:
        return None
    tracker = context.tracker
    try:
        with tracker.named_errors():
            experiment = tracker.experiments().get(context.plan.slug)
            if experiment is None:  # to look at nothing makes no experiment
                return None
            run_id = tracker.parent(experiment, RUN_NAME, {"suite": context.plan.suite.name})
            tracker.artifacts(run_id, {path.name: path, f"{path.stem}-cells.csv": path.with_suffix("") / "cells.csv"})
            tracker.end(run_id, "FINISHED")
    except UserError as error:
        return f"The report was written, but not logged to MLflow: {error}"
    return None
