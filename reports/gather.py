"""Gather the data of a suite's report: the plan that the tracked runs match, and those runs. Read-only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmark import datasets, results
from benchmark.analysis import measured
from benchmark.analysis.measured import Measured
from benchmark.errors import UserError
from benchmark.plan.resolve import Plan, PlannedRun
from benchmark.tracking import Tracked, Tracker, flat
from benchmark.train import teacher_store
from benchmark.train.teacher_store import Manifest
from reports.base import Context

#: problems that are listed; a database may hold hundreds of bad runs: the rest are counted
_MAX_PROBLEMS = 20
#: runs beside the plan's own that a report reads for its ablations, at some milliseconds each
_MAX_OTHERS = 500
#: parameters that all runs of an ablation share with the plan
_SHARED = ("data.num_train", "recipe.epochs", "recipe.lr")
#: figures that every finished run should have
_HEADLINE = ("last", "best_test")


@dataclass(frozen=True)
class _Match:
    """A plan on one set of images: the signatures of its runs, and those of them that are tracked."""

    plan: Plan
    digest: str
    tracked: Sequence[Tracked]
    #: the newest of all runs on these images
    newest: Tracked | None
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
    of_project: Path | None = None,
) -> Context:
    """Gather the context of the plan that most tracked runs match.

    `plans` are one choice of a command line, resolved for different devices. Images are not loaded: the digest of those
    that the suite ran on is read from its runs and teachers. `of_project` is the folder of the runs that the project
    measured, of the checkout by default.
    """
    problems: list[str] = []
    plan = plans[0]
    known = _manifests(runs / "teachers", problems)
    matches = [_match(plan, "", None, known, problems)]
    digests: list[str] = []
    # stored teachers name the images, without a question to the store
    for of_teachers in (True, False):
        found = _digests(plan, known) if of_teachers else _digests_of_runs(tracker, plan)
        new = [digest for digest in dict.fromkeys(found) if digest and digest not in digests]
        digests += new
        for digest in new:
            matches += [_match(one, digest, tracker, known, problems) for one in plans]
        if any(match.num_found for match in matches):
            break
    # the first of equals: known images before unknown ones, then the newest
    best = max(matches, key=lambda match: (match.num_found, match.newest is not None, bool(match.digest)))
    if tracker is None:
        problems.append(f"Nothing is tracked under {runs}: no run was made here yet, or --runs names another folder.")
    elif not best.digest:
        problems.append(f"The tracking store holds no run of {plan.name}, and there is no teacher of it.")
    elif not best.num_found:
        problems.append(
            "None of the runs on these images has the settings of this plan: they were made under other settings or by"
            " an older version."
            if best.newest is not None
            else "There is no run on these images yet."
        )
    others = {match.digest for match in matches if match.num_found} - {best.digest}
    if others:
        problems.append(
            f"Runs of this plan exist on {len(others) + 1} sets of images; this report is of {best.digest[:12]}, which"
            " has the most runs."
        )
    problems += _under_other_teachers(best, tracker)
    problems += _missing_data(best.plan, data_root, runs)
    frame = _frame(best, problems)
    dataset = _dataset(best)
    mine = {run.run_id for run in best.tracked}
    also = [run for run in _others(tracker, best, problems) if run.run_id not in mine]
    return Context(
        plan=best.plan,
        dataset=dataset,
        tracked=tuple(sorted([*best.tracked, *also], key=lambda run: -run.start_time)),
        frame=frame,
        teachers=best.manifests,
        runs=runs,
        data_root=data_root,
        tracker=tracker,
        server=server,
        measured=_measured(best, dataset, of_project, problems),
        problems=_shortened(problems),
        data_digest=best.digest,
        planned=best.planned,
        arguments=tuple(arguments),
    )


def _measured(match: _Match, dataset: str, folder: Path | None, problems: list[str]) -> Measured:
    """The runs that the project measured under the settings of the plan; none where their file is damaged."""
    try:
        of_project = measured.load(measured.path_of(match.plan.suite.name, folder))
    except UserError as error:
        problems.append(f"Measured by the project: {error}.")
        of_project = []
    return measured.of_plan(of_project, match.plan, dataset, match.digest)


def _digests_of_runs(tracker: Tracker | None, plan: Plan) -> list[str]:
    """Data digests of the runs in the suite's experiment, newest first."""
    if tracker is None:
        return []
    with tracker.named_errors():
        experiment = tracker.experiments().get(plan.experiment_name)
        return tracker.values("data_digest", [experiment]) if experiment is not None else []


def _others(tracker: Tracker | None, match: _Match, problems: list[str]) -> list[Tracked]:
    """Finished runs on the plan's images that may belong to an ablation: of other hyperparameters, all else equal."""
    if tracker is None or match.newest is None:
        return []
    planned = [flat(run.config.model_dump(mode="json")) for run in match.plan.runs]
    conditions = ["attributes.status = 'FINISHED'", "params.tuning = 'False'"]
    for name in _SHARED:
        if len(values := {str(fields[name]) for fields in planned}) == 1:
            conditions.append(f"params.`{name}` = '{values.pop()}'")
    if len(match.plan.pairs) == 1:
        conditions.append(f"tags.teacher = '{match.plan.pairs[0].teacher}'")
        conditions.append(f"tags.student = '{match.plan.pairs[0].student}'")
    limit = len(match.tracked) + _MAX_OTHERS
    with tracker.named_errors():
        found = tracker.runs_on(match.digest, " and ".join(conditions), limit)
    if len(found) == limit:
        problems.append(f"Ablations are of the newest {limit} runs on these images: --pairs narrows them.")
    return readable(found, problems)


def readable(tracked: Sequence[Tracked], problems: list[str]) -> list[Tracked]:
    """Keep the runs that this project made; a run of another origin may have any tags."""
    kept = []
    for run in tracked:
        missing = [tag for tag in ("student", "method", "seed") if tag not in run.tags]
        epochs = run.params.get("recipe.epochs", "0")
        if missing:
            problems.append(f"Run {run.run_id} has no tag {', '.join(missing)}: left out.")
        elif not run.tags["seed"].isdigit() or not epochs.isdigit():
            problems.append(f"Run {run.run_id}: its seed or number of epochs is not a number: left out.")
        else:
            kept.append(run)
    return kept


def _manifests(folder: Path, problems: list[str]) -> list[Manifest]:
    found: list[Manifest] = []
    try:
        for _, manifest in teacher_store.manifests(folder):
            found.append(manifest)  # manifests that were read before a damaged one count
    except UserError as error:
        problems.append(f"Teachers: {error}.")
    return found


def _digests(plan: Plan, manifests: Sequence[Manifest]) -> list[str]:
    """Data digests of the images that teachers of this plan were trained on."""
    usable = (one for one in manifests if one.model in plan.teachers and one.dataset.startswith(plan.data.name))
    return [manifest.data_digest for manifest in usable]


def _match(
    plan: Plan, digest: str, tracker: Tracker | None, manifests: Sequence[Manifest], problems: list[str]
) -> _Match:
    on_these = [manifest for manifest in manifests if digest and manifest.data_digest == digest]
    candidates = {model: _checksums(plan, model, digest, on_these, tracker) for model in plan.teachers}
    tracked: list[Tracked] = []
    newest = None
    if tracker is not None and digest:
        # with any candidate, whichever teacher the run has
        possible = {signature for run in plan.runs for signature in _signatures(run, digest, candidates)}
        with tracker.named_errors():
            tracked = readable(tracker.runs_with(possible), problems)
            newest = next(iter(tracker.runs_on(digest, limit=1)), None)
    known = {run.signature for run in tracked}
    checksums = {model: _most_used(plan, model, digest, those, known) for model, those in candidates.items()}
    planned = tuple((run, _signature(run, digest, checksums)) for run in plan.runs)
    wanted = {signature for _, signature in planned}
    stored = {one.model: one for one in on_these if one.checksum == checksums.get(one.model)}
    mine = [run for run in tracked if run.signature in wanted]
    return _Match(plan, digest, mine, newest, stored, planned)


def _checksums(
    plan: Plan, model: str, digest: str, manifests: Sequence[Manifest], tracker: Tracker | None
) -> list[str]:
    """Checksums of the teacher that the plan's runs may have had: of the stored one, or of all that runs name."""
    own = plan.teachers[model].signature(digest, None) if digest else ""
    chosen = teacher_store.choose(manifests, model, digest, own)
    if chosen is not None:
        return [chosen.checksum]
    if tracker is None or not digest:
        return []
    with tracker.named_errors():
        return tracker.values("teacher_checksum", query=f"tags.data_digest = '{digest}' and tags.teacher = '{model}'")


def _most_used(plan: Plan, model: str, digest: str, checksums: Sequence[str], known: set[str]) -> str | None:
    """The checksum that most of the plan's tracked runs had; the first of equals."""

    def num_found(checksum: str) -> int:
        mine = (run for run in plan.runs if run.config.teacher == model)
        return sum(run.config.signature(digest, checksum) in known for run in mine)

    return max(checksums, key=num_found) if checksums else None


def _signatures(run: PlannedRun, digest: str, checksums: Mapping[str, Sequence[str]]) -> list[str]:
    teacher = run.config.teacher
    of_teacher: Sequence[str | None] = [None] if teacher is None else checksums[teacher]
    return [run.config.signature(digest, checksum) for checksum in of_teacher]


def _signature(run: PlannedRun, digest: str, checksums: Mapping[str, str | None]) -> str | None:
    teacher = run.config.teacher
    if not digest or (teacher is not None and checksums[teacher] is None):
        return None
    return run.config.signature(digest, checksums[teacher] if teacher else None)


def _dataset(match: _Match) -> str:
    tracked = [*match.tracked, *([match.newest] if match.newest is not None else [])]
    named = [run.tags["dataset"] for run in tracked if "dataset" in run.tags]
    named += [manifest.dataset for manifest in match.manifests.values()]
    return named[0] if named else match.plan.data.name


def _frame(match: _Match, problems: list[str]) -> pd.DataFrame:
    """One row per run of the plan with its parameters; non-finite values become NaN and are reported as problems."""
    frame = results.frame(match.tracked)
    for name in ("last", "best_test", "best_val", "train_seconds"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
        frame.loc[~frame[name].map(math.isfinite), name] = math.nan
    finished = frame[frame["status"] == "FINISHED"]
    for row in finished[finished[list(_HEADLINE)].isna().any(axis=1)].itertuples():
        problems.append(
            f"Run {row.run_id} ({row.student}, {row.method}, seed {row.repetition}) is finished, but has no number for"
            f" {' and '.join(name for name in _HEADLINE if math.isnan(getattr(row, name)))}: it is not counted there."
        )
    return results.with_parameters(frame, match.tracked)


def _under_other_teachers(match: _Match, tracker: Tracker | None) -> Iterator[str]:
    """Report the finished runs that are left out since their teacher has other weights than the chosen one."""
    planned = {signature for _, signature in match.planned}
    for model in match.plan.teachers if tracker is not None and match.digest else ():
        assert tracker is not None
        query = f"tags.data_digest = '{match.digest}' and tags.teacher = '{model}'"
        with tracker.named_errors():
            checksums = tracker.values("teacher_checksum", query=query)
            mine = [run.config for run in match.plan.runs if run.config.teacher == model]
            others = {config.signature(match.digest, one) for config in mine for one in checksums} - planned
            num = sum(run.status == "FINISHED" for run in tracker.runs_with(others)) if others else 0
        if num:
            yield (
                f"{num} finished run{'s' if num > 1 else ''} of this plan had other weights of the teacher {model} than"
                " the report's runs: left out, since a difference between them would also be the teachers'."
            )


def _missing_data(plan: Plan, data_root: Path, runs: Path) -> list[str]:
    """Report a data set that is neither embedded nor in the data folder."""
    if plan.data.options or (data_root.is_dir() and any(data_root.iterdir())):
        return []  # looking further would decode all images
    try:
        datasets.load(plan.data, data_root, runs / "cache")
    except UserError as error:
        return [f"The images of {plan.data.name} are not here: {error}."]
    return []


def _shortened(problems: Sequence[str]) -> tuple[str, ...]:
    unique = list(dict.fromkeys(problems))
    rest = len(unique) - _MAX_PROBLEMS
    return (*unique[:_MAX_PROBLEMS], *([f"And {rest} more of this kind."] if rest > 0 else []))
