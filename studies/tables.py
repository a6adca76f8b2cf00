"""Outputs of a study: tables of its trials and its confirmation, its figures, and its run in MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from benchmark.analysis import stats
from benchmark.analysis.decision import Question, confidence_text, decide, interval_note
from benchmark.analysis.numbers import MISSING, plus_minus, unmarked_spread
from benchmark.analysis.table import Cell, Column, Row, Table, Value
from studies import figures as drawing
from studies.search import Search, frame, is_retried
from studies.trials import StudyExecution


def left_words(search: Search) -> str:
    """Describe how many trials are in each state, and how many are left."""
    table = frame(search.trials())
    counts = table["state"].value_counts().to_dict() if len(table) else {}
    by_state = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return f"Trials: {by_state or 'none yet'}; {search.num_left()} left."


def remarks(search: Search) -> list[str]:
    """Sentences about a study's trials: what they show, the plain method, chance, and what is not drawn."""
    found = [] if search.is_at_chance else [*search.definition.findings(frame(search.trials()))]
    if (plain := search.reference) is not None:
        value = plus_minus(plain.value, plain.std)
        seeds = f"{plain.num_seeds} seed{'s' if plain.num_seeds > 1 else ''}"
        found.append(f"{plain.title} trained and measured as the trials are: {value} ({seeds}).")
    if search.is_at_chance and search.chance is not None and not search.num_left():
        level = search.chance.words(search.num_complete)
        found.append(
            f"No winner: no trial is above chance ({level} may be guessing), so there is nothing to confirm. Train for"
            " longer or on more images."
        )
    if search.best() is not None and (reason := drawing.why_no_importance(search.study)) is not None:
        found.append(f"Importance of the parameters is not computed: {reason}.")
    return found


def words_of(trial: FrozenTrial) -> str:
    """Describe, in one line, a trial that has ended."""
    choice = trial.user_attrs.get("choice", "")
    if is_retried(trial):
        return f"trial {trial.number}: {choice}: its worker died, re-queued"
    if trial.state == TrialState.COMPLETE:
        return f"trial {trial.number}: {choice}: {trial.value:.2f}% on the validation split"
    return f"trial {trial.number}: {choice}: {trial.state.name.lower()} {trial.user_attrs.get('reason', '')}".strip()


def leaderboard(search: Search) -> Table:
    """Tabulate every trial, the best first, with its tuning value, which is not a result."""
    trials = frame(search.trials()).sort_values(["value", "number"], ascending=[False, True], na_position="last")
    has_winner = search.winner() is not None
    rows = [_trial_row(trial, has_winner and place == 0) for place, trial in enumerate(trials.to_dict("records"))]
    columns = (
        Column("trial"),
        Column("choice", "left"),
        Column("state", "left"),
        Column("validation top-1"),
        Column("seeds"),
        Column("reason", "left"),
    )
    notes = (
        "Tuning values, in percent: the highest of several overstates what a repetition would give. Only the accuracies"
        " confirmed on the test set are results.",
        *remarks(search),
    )
    title, question = f"Trials of {search.title}", search.definition.question
    return Table.of_rows(title, question, columns, rows, notes)


def _trial_row(trial: Mapping[Any, Any], is_best: bool) -> Row:
    fields = {name: trial[name] for name in ("number", "state", "choice", "value", "std", "num_seeds")}
    parameters = {name: value for name, value in trial.items() if name not in {*fields, "values", "reason"}}
    choice = trial["choice"] or ", ".join(f"{name}={value}" for name, value in parameters.items() if not pd.isna(value))
    value, is_complete = MISSING, trial["state"] == "complete"
    if is_complete:
        value = plus_minus(trial["value"], None if pd.isna(trial["std"]) else trial["std"])
    cells = (
        Cell(str(trial["number"])),
        Cell(choice),
        Cell(trial["state"]),
        Cell(value, bold=is_best and is_complete),
        Cell(str(trial["num_seeds"] or "")),
        Cell(trial["reason"]),
    )
    return Row(cells, fields)


def confirmation_table(search: Search, confirmed: pd.DataFrame) -> Table:
    """Tabulate winner and baselines on the test set, and the winner's paired difference to each baseline."""
    by_choice = {
        str(label): runs.set_index("repetition")["last"] for label, runs in confirmed.groupby("choice", sort=False)
    }
    winner = next(iter(confirmed.loc[confirmed["is_winner"], "choice"]), None)
    rivals = [label for label in by_choice if winner is not None and label != winner]
    asked = [Question(stats.paired_difference(by_choice[str(winner)], by_choice[label])) for label in rivals]
    decided = decide(asked)
    decisions = dict(zip(rivals, decided, strict=True))
    rows = []
    for label, last in by_choice.items():
        mean, std = stats.mean_std(last.tolist())
        gain = decisions.get(label)
        low, high = gain.interval if gain and gain.interval else (None, None)
        cells = (
            Cell(f"{label} (winner)" if label == winner else label),
            Cell(unmarked_spread(last.tolist())),
            Cell(gain.text if gain else MISSING),
            Cell(gain.outcome_text if gain else MISSING),
            Cell(str(len(last))),
        )
        fields: dict[str, Value] = {
            "choice": label,
            "is_winner": label == winner,
            "last_mean": mean,
            "last_std": std,
            "gain_of_winner": gain.difference.mean if gain and gain.difference else None,
            "gain_low": low,
            "gain_high": high,
            "gain_outcome": gain.word if gain else None,
            "seeds": len(last),
        }
        rows.append(Row(cells, fields))
    notes = [
        "Trained on the whole training set under seeds that no trial saw; top-1 on the test set after the last epoch,"
        f" in percent. Gain: the winner minus this line, paired by seed. {interval_note(decided)}",
    ]
    if len(by_choice) <= len(search.definition.baselines()):
        notes.append("The winner is one of the baselines, so it is listed once.")
    chance = search.chance
    by_chance = [
        label for label, last in by_choice.items() if chance and chance.covers(stats.mean_std(last.tolist())[0])
    ]
    if chance and by_chance:
        notes.append(f"At chance level ({chance.percent:.2f}%): {'; '.join(by_chance)}.")
    columns = (
        Column("choice", "left"),
        Column("last"),
        Column(f"winner's gain [{confidence_text(decided)}]"),
        Column("outcome", "left"),
        Column("seeds"),
    )
    title, question = f"Confirmed: {search.title}", search.definition.question
    return Table.of_rows(title, question, columns, rows, notes)


def described(search: Search) -> str:
    """Describe a study for its run in MLflow, as Markdown."""
    return " ".join([search.definition.question, f"Published: {search.definition.published}.", *remarks(search)])


def contents(search: Search, confirmed: pd.DataFrame | None) -> dict[str, bytes]:
    """The study's files by name: its tables and, once a trial is complete, its figures."""
    made = _as_files("trials", leaderboard(search))
    if confirmed is not None and len(confirmed):
        made |= _as_files("confirmed", confirmation_table(search, confirmed))
    return made | (figures(search) if search.best() is not None else {})


def _as_files(name: str, table: Table) -> dict[str, bytes]:
    return {f"{name}.csv": table.to_csv().encode(), f"{name}.md": table.to_markdown().encode()}


#: names of a study's figures
FIGURES = ("answer", "history", "importance", "timeline")


def figures(search: Search) -> dict[str, bytes]:
    """The study's own figure, its history, importances and timeline, as PNG and SVG by file name.

    Figures that would show nothing are left out.
    """
    trials = frame(search.trials())
    known = marks(search)
    drawn = {
        "answer": drawing.with_marks(search.definition.figure(trials, search.title), known),
        "history": drawing.with_marks(drawing.history(trials, search.title), known),
        "timeline": drawing.timeline(search.study, search.title),
    }
    if drawing.why_no_importance(search.study) is None:
        drawn["importance"] = drawing.importance(search.study, search.title)
    return {
        f"{name}.{kind}": content for name, figure in drawn.items() for kind, content in drawing.saved(figure).items()
    }


def marks(search: Search) -> list[drawing.Mark]:
    """Levels that the trials are to be seen against: the plain method, unless it is one of them, and chance."""
    found = []
    plain, trials = search.reference, search.trials()
    if plain is not None and plain.choice not in {trial.user_attrs.get("choice") for trial in trials}:
        found.append(drawing.Mark(f"{plain.title}, same split and seeds", plain.value))
    if (chance := search.chance) is not None:
        is_near = any(trial.value is not None and chance.covers(trial.value) for trial in trials)
        found.append(drawing.Mark(f"chance ({chance.percent:.2f}%)", chance.percent, is_chance=True, is_needed=is_near))
    return found


def log(search: Search, execution: StudyExecution, contents: dict[str, bytes]) -> None:
    """Log the study's answer, tables and figures to its run in MLflow."""
    if execution.run_id is None:
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
        choice = "none: at chance level" if search.is_at_chance else best.user_attrs.get("choice", "")
        about |= {"best_trial": str(best.number), "best_choice": choice, "mlflow.note.content": described(search)}
        shares = {f"importance/{name}": share for name, share in drawing.importances(search.study).items()}
        known = execution.tracker.metrics(execution.run_id)  # of an earlier start of the study
        found = {"study/best_value": best.value or 0.0, **shares}
        changed = {name: value for name, value in found.items() if known.get(name) != value}
        execution.tracker.summarise(execution.run_id, changed)
    execution.tracker.tag(execution.run_id, about)
    execution.tracker.artifacts(execution.run_id, contents)
