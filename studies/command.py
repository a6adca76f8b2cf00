"""Answer a question with a search: `python -m benchmark.study sdd_beta --suite cifar100 --pair resnet32x4:resnet8x4`.

Trials see a split of the training set and are ranked on its validation part; only what is confirmed afterwards, on the
whole training set under fresh seeds, is called a result.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from rich.console import Console

from benchmark import command_line, datasets, files, machine, tracking
from benchmark.analysis import stats
from benchmark.analysis.numbers import MISSING, bracketed, plus_minus, signed, two_decimals, unmarked_spread
from benchmark.analysis.table import Cell, Column, Row, Section, Table, Value
from benchmark.errors import UserError, among
from benchmark.execution import progress
from benchmark.execution.options import Options
from benchmark.execution.survey import Entry
from benchmark.plan.suite import load
from studies import figures as drawing
from studies import questions
from studies.base import Choice, Study
from studies.search import Search, frame, is_lost, slug
from studies.trials import VAL_FRACTION, Batch, Ground, Trainer, confirmation_runs

POLL_SECONDS = 1.0
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def parser() -> command_line.Parser:
    """Return the command's arguments."""
    made = command_line.Parser("python -m benchmark.study", description=__doc__)
    made.add_argument("study", nargs="?", help="a study's name; without one, all are listed")
    made.add_argument("--suite", default="digits", help="a suite's name or a path to its .yaml (default: digits)")
    made.add_argument("--pair", metavar="T:S", help="teacher:student (default: the suite's first)")
    made.add_argument("--profile", metavar="NAME", help="a smaller form of the suite, e.g. smoke")
    made.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE", help="as in benchmark.run"
    )
    made.add_argument("--trials", type=command_line.positive, metavar="N", help="trials of a sampler (not of a grid)")
    made.add_argument("--timeout", type=float, metavar="SECONDS", help="ask for no more trials after so long")
    made.add_argument(
        "--confirm", type=_count, default=3, metavar="N", help="seeds to confirm with (default: 3; 0: none)"
    )
    made.add_argument(
        "--storage", metavar="URL", help="postgresql+psycopg://... for several machines (default: a journal)"
    )
    made.add_argument("--resume", action="store_true", help="go on where the study was, which it does without as well")
    made.add_argument("--fresh", action="store_true", help="start the study again; its trained runs are kept")
    made.add_argument("--show", action="store_true", help="print the trials and what is left; train nothing")
    made.add_argument(
        "--join", action="store_true", help="work at trials only: leave figures and confirmation to others"
    )
    command_line.add_places(made)
    command_line.add_device(made)
    command_line.add_cache_limit(made)
    return made


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number, got '{text}'")
    return int(text)


def main(arguments: Sequence[str] | None, console: Console) -> int:
    """Run the command; return its exit code."""
    given = parser().parse_args(arguments)
    if given.study is None:
        return list_studies(console)
    definition = questions.registry.get(given.study)()
    ground = ground_of(given)
    title = title_of(definition, ground)
    options = Options(
        runs=given.runs.resolve(),
        data_root=given.data.resolve(),
        device=ground.device,
        workers=given.workers or command_line.default_workers(ground.device, given.threads),
        threads=given.threads,
        cache_gb=given.cache_gb,
        force_bf16=given.force_bf16,
    )
    folder = options.runs / "studies"
    if given.show and given.storage is None and not (folder / f"{slug(title)}.journal").exists():
        raise UserError(f"study '{title}' was not begun under {options.runs}: leave out --show to begin it")
    check(definition, ground)
    recipe = ground.plan(definition.baselines()[0], 1, tuning=True).runs[0].config.recipe
    search = Search(
        definition,
        title,
        {"suite": ground.suite.name, "profile": ground.profile, "pair": ground.pair, "set": list(ground.assignments)},
        folder,
        given.storage,
        given.trials,
        given.fresh,
        warmup_steps=recipe.milestones[0] if recipe.milestones else recipe.epochs,
    )
    try:
        if given.show:
            console.print(leaderboard(search).to_rich())
            console.print(left_words(search))
            return 0
        return run(given, arguments, search, ground, options, console)
    finally:
        search.close()


def list_studies(console: Console) -> int:
    """Print every study and its question."""
    width = max(map(len, questions.names()))
    for name in questions.names():
        console.print(f"  {name:{width}}  {questions.registry.get(name).question}", soft_wrap=True)
    console.print("\nBegin one with `python -m benchmark.study NAME`; it goes on where it was.")
    return 0


def ground_of(given: argparse.Namespace) -> Ground:
    """Return what the study is asked of. Raises UserError for an unknown suite or pair."""
    suite = load(given.suite)
    known = [pair.name for pair in suite.pairs]
    pair = given.pair or known[0]
    if ":" not in pair:
        raise UserError(f"--pair {pair}: write it as teacher:student{among(pair, known)}")
    return Ground(suite, given.profile, pair, tuple(given.assignments), command_line.resolve_device(given.device))


def title_of(definition: Study, ground: Ground) -> str:
    """Return the study's name in its storage and in MLflow."""
    profile = f" {ground.profile}" if ground.profile else ""
    return f"{definition.name} on {ground.suite.name}{profile} {ground.pair.replace(':', ' to ')}"


def check(definition: Study, ground: Ground) -> None:
    """Raise UserError, before anything is trained, when the suite refuses a point or a baseline of the study."""
    choices = [definition.suggest(FixedTrial(dict(point))) for point in definition.grid()]
    varied = {key for choice in choices for key in choice.settings}
    for assignment in ground.assignments:
        if (key := assignment.partition("=")[0]) in varied:
            raise UserError(f"--set {assignment}: study '{definition.name}' varies {key} itself")
    for choice in [*choices, *definition.baselines()]:
        ground.plan(choice, 1, tuning=True)


def run(
    given: argparse.Namespace,
    arguments: Sequence[str] | None,
    search: Search,
    ground: Ground,
    options: Options,
    console: Console,
) -> int:
    """Work at the study until nothing is left, draw it, and confirm its winner."""
    # a batch is trained by one process: more of them than batches would have nothing to do
    batches = -(-unfinished(search) // search.definition.at_once)
    processes = 1 if given.join else max(1, min(options.workers, batches))
    if not given.join:
        console.print(describe(search, ground, options.workers), soft_wrap=True)
    plan = ground.plan(search.definition.baselines()[0], 1, tuning=True)
    data = datasets.load(plan.data, options.data_root, options.cache, download=True)
    tracker = tracking.Tracker(options.runs)
    stopped = False
    if processes > 1:
        stopped = watch(arguments, search, processes, options.workers // processes, console)
    confirmed_runs = given.confirm * (1 + len(search.definition.baselines()))
    with progress.view(console, unfinished(search) * search.definition.seeds + confirmed_runs) as view:
        trainer = Trainer(search.title, data, options, tracker, view)
        teacher = ground.pair.partition(":")[0]
        if trainer.has_seen_everything(teacher) and not given.join:
            view.say(
                f"The weights of teacher {teacher} were imported: it has seen the validation images too, which flatters"
                " every trial; they are tagged teacher_saw_val."
            )
        if not stopped:
            stopped = not work(search, ground, trainer, given.timeout)
        if given.join:
            return 130 if stopped else 0
        confirmed = None
        if not stopped and given.confirm and not unfinished(search):
            confirmed = confirm(search, ground, trainer, given.confirm)
            stopped = trainer.was_stopped
    return conclude(search, confirmed, trainer, stopped, console)


def describe(search: Search, ground: Ground, workers: int) -> str:
    """Return what is asked and of what, in words."""
    definition, points = search.definition, len(search.definition.grid())
    how = f"a grid of {points} points" if points else f"{search.num_trials} trials by {definition.sampler}"
    split = "the suite's validation split" if ground.holds_out else f"{VAL_FRACTION:.0%} of the training set"
    return (
        f"Study {search.title}\n{definition.question}\nPublished: {definition.published}\n"
        f"Ours: {how}, {definition.at_once} at once, {definition.seeds} seed{'s' if definition.seeds > 1 else ''} each,"
        f" ranked on {split}; {workers} worker{'s' if workers > 1 else ''}. {left_words(search)}"
    )


def left_words(search: Search) -> str:
    """Return how many trials are in which state, and how many are left."""
    table = frame(search.trials())
    counts = table["state"].value_counts().to_dict() if len(table) else {}
    left = unfinished(search)
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return f"Trials: {told or 'none yet'}; {left} left."


def unfinished(search: Search) -> int:
    """Return how many trials are still to be told."""
    trials = [trial for trial in search.trials() if not is_lost(trial)]
    ended = sum(trial.state in ENDED for trial in trials)
    return max(len(trials) if search.definition.grid() else search.num_trials, len(trials)) - ended


def work(search: Search, ground: Ground, trainer: Trainer, timeout: float | None) -> bool:
    """Ask, train and tell until nothing is left to ask for; False when stopped."""
    started = time.monotonic()
    while timeout is None or time.monotonic() - started < timeout:
        trials = search.ask()
        if not trials:
            return True
        try:
            if not Batch(search, ground, trials).train(trainer):
                return False
        except BaseException:  # interrupted between two trainings, a data set that cannot be read, ...
            search.abandon([trial for trial, _ in trials])
            raise
    return True


def watch(arguments: Sequence[str] | None, search: Search, processes: int, workers: int, console: Console) -> bool:
    """Let processes of so many workers each work at the study, and print every trial that ends; True when stopped.

    A process that dies is reported: its trials are put back and taken by the others, or by this one in the end.
    """
    own = [one for one in (sys.argv[1:] if arguments is None else arguments) if one != "--fresh"]
    command = [sys.executable, "-m", "benchmark.study", *own, "--workers", str(workers), "--join"]
    seen = {trial.number for trial in search.trials() if trial.state in ENDED}
    stopped = False
    with contextlib.ExitStack() as held:
        running = {}
        for number in range(1, processes + 1):
            log = search.folder / f"{slug(search.title)}-worker-{number}.log"
            output = held.enter_context(log.open("wb"))
            running[number] = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT), log
            held.callback(_end, running[number][0])
        while running:
            try:
                time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                stopped = True
                console.print("Stopping: every student is saved, trials that are under way are put back ...")
                for process, _ in running.values():
                    process.send_signal(signal.SIGINT)
            for trial in search.trials():
                if trial.state in ENDED and trial.number not in seen:
                    seen.add(trial.number)
                    console.print(words_of(trial), soft_wrap=True)
            for number, (process, log) in list(running.items()):
                if (code := process.poll()) is None:
                    continue
                del running[number]
                if code == command_line.EXIT_USER_ERROR:
                    said = log.read_text().strip().splitlines() or ["it said nothing"]
                    raise UserError(f"worker {number}: {said[-1].removeprefix('error: ')}")
                if code not in (0, 130):
                    console.print(f"worker {number} ended with {code}: its trials are put back ({log})", soft_wrap=True)
    return stopped


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a process that is still at work save and put back, and wait for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait()


def words_of(trial: FrozenTrial) -> str:
    """Return a trial that ended in one line."""
    choice = trial.user_attrs.get("choice", "")
    if is_lost(trial):
        return f"trial {trial.number}: {choice}: lost with its worker, put back"
    if trial.state == TrialState.COMPLETE:
        return f"trial {trial.number}: {choice}: {trial.value:.2f}% on the validation split"
    return f"trial {trial.number}: {choice}: {trial.state.name.lower()} {trial.user_attrs.get('reason', '')}".strip()


def leaderboard(search: Search) -> Table:
    """Return every trial, the best first; what is on it is a tuning value, not a result."""
    trials = frame(search.trials()).sort_values(["value", "number"], ascending=[False, True], na_position="last")
    rows = [_trial_row(one, place == 0) for place, one in enumerate(trials.to_dict("records"))]
    headers = (("trial", "right"), ("choice", "left"), ("state", "left"), ("validation top-1", "right"),
               ("seeds", "right"), ("reason", "left"))  # fmt: skip
    notes = (
        "Tuning values, in percent: the highest of several is higher than it would be again. Results are what is"
        " confirmed on the test set.",
    )
    title, question = f"Trials of {search.title}", search.definition.question
    return Table(title, question, tuple(Column(*one) for one in headers), (Section("", "", tuple(rows)),), notes)  # type: ignore[arg-type]


def _trial_row(one: Mapping[Any, Any], is_best: bool) -> Row:
    fields = {name: one[name] for name in ("number", "state", "choice", "value", "std", "num_seeds")}
    parameters = {name: value for name, value in one.items() if name not in fields and name != "reason"}
    choice = one["choice"] or ", ".join(f"{name}={value}" for name, value in parameters.items() if not pd.isna(value))
    value, is_told = MISSING, one["state"] == "complete"
    if is_told:
        value = plus_minus(one["value"], None if pd.isna(one["std"]) else one["std"])
    cells = (
        Cell(str(one["number"])),
        Cell(choice),
        Cell(one["state"]),
        Cell(value, bold=is_best and is_told),
        Cell(str(one["num_seeds"] or "")),
        Cell(one["reason"]),
    )
    return Row(cells, fields)


def best_choice(search: Search) -> Choice | None:
    """Return what the winner is, or None while no trial is complete."""
    best = search.best()
    return None if best is None else search.definition.suggest(FixedTrial(dict(best.params)))


def confirm(search: Search, ground: Ground, trainer: Trainer, seeds: int) -> pd.DataFrame | None:
    """Train winner and baselines anew and return one row per run: choice, is_winner, repetition, last (percent).

    A baseline that is the winner under another name is left out.
    """
    winner = best_choice(search)
    if winner is None:
        return None
    title = search.title
    made = {winner.label: confirmation_runs(ground, winner, seeds, title)}
    for choice in search.definition.baselines():
        plan, runs = confirmation_runs(ground, choice, seeds, title)
        if runs[0].config != made[winner.label][1][0].config:
            made[choice.label] = plan, runs
    entries = trainer.train([plan for plan, _ in made.values()], [run for _, runs in made.values() for run in runs])
    rows = [
        {
            "choice": entry.tags["confirms"],
            "is_winner": entry.tags["confirms"] == winner.label,
            "repetition": entry.config.repetition,
            "last": last_of(entry, trainer),
            "run_id": entry.run_id,
        }
        for entry in entries
        if entry.state == "finished"
    ]
    return pd.DataFrame(rows, columns=["choice", "is_winner", "repetition", "last", "run_id"])


def last_of(entry: Entry, trainer: Trainer) -> float:
    """Return a finished run's accuracy on the test set after its last epoch."""
    assert entry.run_id is not None
    return trainer.tracker.metric(entry.run_id, "final/last")


def confirmation_table(search: Search, confirmed: pd.DataFrame) -> Table:
    """Return the results: winner and baselines on the test set, and the winner's paired difference to each baseline."""
    by_choice = {
        str(label): one.set_index("repetition")["last"] for label, one in confirmed.groupby("choice", sort=False)
    }
    winner = next(iter(confirmed.loc[confirmed["is_winner"], "choice"]), None)
    rows = []
    for label, last in by_choice.items():
        mean, std = stats.mean_std(last.tolist())
        gain = None
        if winner is not None and label != winner:
            gain = stats.paired_difference(by_choice[winner], last)
        interval = f" {bracketed(gain.interval)}" if gain and gain.interval else ""
        cells = (
            Cell(f"{label} (winner)" if label == winner else label),
            Cell(unmarked_spread(last.tolist())),
            Cell(f"{signed(gain.mean)}{interval}" if gain else MISSING),
            Cell(two_decimals(gain.detectable if gain else None)),
            Cell(str(len(last))),
        )
        fields: dict[str, Value] = {
            "choice": label,
            "is_winner": label == winner,
            "last_mean": mean,
            "last_std": std,
            "gain_of_winner": gain.mean if gain else None,
            "gain_low": gain.interval[0] if gain and gain.interval else None,
            "gain_high": gain.interval[1] if gain and gain.interval else None,
            "seeds": len(last),
        }
        rows.append(Row(cells, fields))
    notes = [
        "Trained on the whole training set under seeds that no trial saw; top-1 on the test set after the last epoch,"
        " in percent. Gain: the winner minus this line, paired by seed, with its 95% t interval; one that holds 0 is no"
        " evidence of a difference.",
    ]
    if len(by_choice) <= len(search.definition.baselines()):
        notes.append("The winner is one of the baselines, which is why it stands here once.")
    headers = ("last", "winner's gain [95%]", "detectable", "seeds")
    columns = (Column("choice", "left"), *map(Column, headers))
    title, question = f"Confirmed: {search.title}", search.definition.question
    return Table(title, question, columns, (Section("", "", tuple(rows)),), tuple(notes))


def conclude(search: Search, confirmed: pd.DataFrame | None, trainer: Trainer, stopped: bool, console: Console) -> int:
    """Print and write what was found, log it to the study's MLflow run, and say where to look next."""
    place = search.folder / slug(search.title)
    board = leaderboard(search)
    console.print()
    console.print(board.to_rich())
    contents: dict[str, bytes] = {"trials.csv": board.to_csv().encode(), "trials.md": board.to_markdown().encode()}
    if confirmed is not None and len(confirmed):
        table = confirmation_table(search, confirmed)
        console.print(table.to_rich())
        contents |= {"confirmed.csv": table.to_csv().encode(), "confirmed.md": table.to_markdown().encode()}
    if search.best() is not None:
        contents |= figures(search)
    for name, content in contents.items():
        files.write(place / name, content)
    log(search, trainer, contents)
    for problem in trainer.problems:
        console.print(f"failed: {problem}", style="red", soft_wrap=True)
    console.print(left_words(search))
    console.print(f"Figures and tables: {place}", soft_wrap=True)
    console.print("Every run: `make ui`; the study in Optuna: `make dashboard`")
    if stopped:
        console.print(f"Stopped. The same command goes on: {machine.command_line()}", soft_wrap=True)
        return 130
    return 0 if not unfinished(search) and not trainer.problems else 1


def figures(search: Search) -> dict[str, bytes]:
    """Return the study's own figure, its history, importances and timeline, as PNG and SVG by file name."""
    trials = frame(search.trials())
    drawn = {
        "answer": search.definition.figure(trials, search.title),
        "history": drawing.history(trials, search.title),
        "importance": drawing.importance(search.study, search.title),
        "timeline": drawing.timeline(search.study, search.title),
    }
    return {
        f"{name}.{kind}": content for name, figure in drawn.items() for kind, content in drawing.saved(figure).items()
    }


def log(search: Search, trainer: Trainer, contents: dict[str, bytes]) -> None:
    """Complete the study's run in MLflow."""
    if trainer.run_id is None:
        return
    best = search.best()
    about = {
        "study": search.title,
        "question": search.definition.question,
        "sampler": search.definition.sampler,
        "pruner": search.definition.pruner,
        "space": json.dumps([dict(point) for point in search.definition.grid()] or "drawn")[:4000],
        "storage": search.place if "://" not in search.place else search.place.partition("@")[2],
    }
    if best is not None:
        about |= {"best_trial": str(best.number), "best_choice": best.user_attrs.get("choice", "")}
        shares = {f"importance/{name}": share for name, share in drawing.importances(search.study).items()}
        trainer.tracker.summarise(trainer.run_id, {"study/best_value": best.value or 0.0, **shares})
    trainer.tracker.tag(trainer.run_id, about)
    trainer.tracker.artifacts(trainer.run_id, contents)
