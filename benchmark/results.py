"""Read MLflow into one tidy table, one row per run."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pandas as pd

from benchmark.tracking import BEST_ON_TEST, Tracked, Tracker

#: columns of every frame; each further metric follows as a column of its own name
COLUMNS = (
    *("signature", "run_id", "status", "role", "suite", "dataset", "is_part", "teacher", "student", "method"),
    *("repetition", "epochs", "last", "best_test", "best_val", "train_seconds"),
    *("failure", "teacher_checksum", "git_commit", "git_dirty", "device", "machine"),
)
#: columns whose metric has another name
_HEADLINE = {
    "last": "final/last",
    "best_test": BEST_ON_TEST,
    "best_val": "final/best_val",
    "train_seconds": "final/train_seconds",
}

#: of several runs with one signature, the lowest counts
_ORDER = {"FINISHED": 0, "RUNNING": 1, "FAILED": 2, "KILLED": 3}


def frame(tracked: Iterable[Tracked], signatures: Collection[str] | None = None) -> pd.DataFrame:
    """Tabulate runs, one per row, accuracies in percent; with `signatures`, only the runs that have one of them.

    `last` is the accuracy on the test set after the last epoch; `best_test` that of the best epoch on the test set;
    `best_val` the test accuracy of the epoch that was best on the validation split. Every other metric of a finished
    run, such as `test/agreement`, is a column of its own name: its value after the last epoch. NaN where there is none.

    `device` names the hardware with its cores, as people do: two CPU generations may have one name. `machine` is what
    a run's numbers depend on, as `machine.describe_numerics` writes it: two runs of one configuration are equal to the
    last digit where it is equal, and may differ where it is not. None for runs of before it was recorded; machines
    joined by " + " for a run that was resumed on another one.
    """
    chosen: dict[str, Tracked] = {}
    for run in tracked:
        if signatures is not None and run.signature not in signatures:
            continue
        known = chosen.get(run.signature)
        if known is None or _ORDER[run.status] < _ORDER[known.status]:
            chosen[run.signature] = run
    rows = pd.DataFrame([_row(run) for run in chosen.values()], columns=list(COLUMNS))
    metrics = [_metrics(run) for run in chosen.values()]
    names = sorted({name for row in metrics for name in row})
    return pd.concat([rows, pd.DataFrame(metrics, index=rows.index, columns=names, dtype=float)], axis=1)


def with_parameters(frame: pd.DataFrame, tracked: Iterable[Tracked]) -> pd.DataFrame:
    """Add one column per parameter, prefixed `param.`, to a frame of these runs."""
    of_run = {run.run_id: run.params for run in tracked}
    params = pd.DataFrame([dict(of_run[run_id]) for run_id in frame["run_id"]], index=frame.index)
    return pd.concat([frame, params.add_prefix("param.")], axis=1)


def _row(run: Tracked) -> dict[str, object]:
    finished = run.metrics if run.status == "FINISHED" else {}
    return {
        "signature": run.signature,
        "run_id": run.run_id,
        "status": run.status,
        "role": run.tags.get("role"),
        "suite": run.tags.get("suite"),
        "dataset": run.tags.get("dataset"),
        "is_part": run.tags.get("dataset_is_part") == "true",
        "teacher": run.tags.get("teacher"),
        "student": run.tags["student"],
        "method": run.tags["method"],
        "repetition": int(run.tags["seed"]),
        "epochs": int(run.params.get("recipe.epochs", 0)),
        **{column: finished.get(metric) for column, metric in _HEADLINE.items()},
        "failure": run.tags.get("failure_reason"),
        "teacher_checksum": run.tags.get("teacher_checksum"),
        "git_commit": run.tags.get("git_commit"),
        "git_dirty": run.tags.get("git_dirty"),
        "device": run.tags.get("device"),
        "machine": run.tags.get("machine"),
    }


def _metrics(run: Tracked) -> dict[str, float]:
    """Metrics of a finished run that have no column in `COLUMNS`."""
    if run.status != "FINISHED":
        return {}
    return {name: value for name, value in run.metrics.items() if name not in {*COLUMNS, *_HEADLINE.values()}}


def selections(history: list[dict[str, float]]) -> dict[str, float]:
    """Select a run's headline figures from its per-epoch rows: `last`, `best_test` and, with a split, `best_val`.

    A tuning run, which never saw the test set, has only `val`: validation accuracy after the last epoch.

    `best_val` is the test accuracy of the first epoch that was best on the validation split: chosen without the test
    set. `best_test` is the literature's habit.
    """
    scored = [row for row in history if "test/top1" in row]
    if not scored:
        return {"final/val": history[-1]["val/top1"]}
    found = {"final/last": scored[-1]["test/top1"], BEST_ON_TEST: max(row["test/top1"] for row in scored)}
    if "val/top1" in scored[-1]:
        found["final/best_val"] = max(scored, key=lambda row: row["val/top1"])["test/top1"]
    return found


def epochs(tracker: Tracker, tracked: Iterable[Tracked]) -> pd.DataFrame:
    """Tabulate one row per run, epoch and metric: the data of training curves."""
    rows = [
        (run.signature, run.run_id, step, name, value)
        for run in tracked
        for name in sorted(run.metrics)
        if not name.startswith("final/")
        for step, value in tracker.history(run.run_id, name)
    ]
    return pd.DataFrame(rows, columns=["signature", "run_id", "epoch", "metric", "value"])
