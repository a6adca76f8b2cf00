"""The command end to end: plan, train, track, tabulate, stop, go on."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from benchmark import __main__ as looking
from benchmark import command_line, datasets, logs, machine, results, tracking
from benchmark import run as module
from benchmark.commands import status, train
from benchmark.errors import UserError
from benchmark.execution.deadline import Deadline
from tests import footprint

SMALL: dict[str, Any] = {
    "title": "small",
    "data": {"name": "digits", "num_train": 96, "num_test": 60},
    "recipe": {"epochs": 2, "batch_size": 32},
    "seeds": 2,
    "methods": {"vanilla": {}, "kd": {}, "sdd_kd": {}},
    "pairs": [{"teacher": "resnet8", "student": "resnet8_half"}],
}


def suite_file(folder: Path, **changes: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return path


#: whole commands train here
pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("run")]


@dataclass(frozen=True)
class Printed:
    code: int
    text: str


def arguments(suite: Path, runs: Path, engine: str, *more: str) -> list[str]:
    return [str(suite), "--runs", str(runs), "--workers", "1", "--engine", engine, *more]


def device() -> str:
    """The device that a command chooses by itself, as it names it."""
    return machine.describe_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def run(suite: Path, runs: Path, *more: str, engine: str = "inline", text: io.StringIO | None = None) -> Printed:
    """Run the command in this process, and train in it too."""
    text = text or io.StringIO()
    code = module.main(arguments(suite, runs, engine, *more), logs.LoggedConsole(file=text, width=140))
    return Printed(code, text.getvalue())


def start(suite: Path, runs: Path) -> subprocess.Popen[str]:
    datasets.create("digits", runs, cache=runs / "cache", render=True)  # it need not render them
    command = [sys.executable, "-m", "benchmark.run", *arguments(suite, runs, "local")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tracked(runs: Path) -> list[tracking.Tracked]:
    tracker = tracking.Tracker(runs)
    return tracker.runs_in(list(tracker.experiments().values()))


def final_weights(runs: Path, name: str) -> dict[str, Any]:
    """The weights of every finished student, by signature."""
    tracker = tracking.Tracker(runs)
    found = {}
    for one in tracked(runs):
        folder = runs / name / one.signature
        tracker.download(one.run_id, folder)
        found[one.signature] = load_file(folder / "student.safetensors")
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Printed]:
    """A small suite, run to its end: (suite file, runs folder, what it printed)."""
    folder = tmp_path_factory.mktemp("small")
    suite, runs = suite_file(folder), folder / "runs"
    return suite, runs, run(suite, runs)


def test_it_ends_with_tracked_runs_and_a_table(
    done: tuple[Path, Path, Printed],
) -> None:
    _, runs, printed = done
    assert printed.code == 0
    assert "Plan: small" in printed.text
    assert "Runs: 6 finished" in printed.text
    assert re.search(rf"\nAbout .*, teachers included, on {re.escape(device())}.*start-up and tracking", printed.text)
    assert re.search(r"\nEstimated [\d a-z]+, took [\d a-z]+\.\n", printed.text)
    result, table_line, runs_line, following = printed.text.rstrip().splitlines()[-4:]
    assert result.startswith("Result: highest accuracy after the last epoch: ")
    assert table_line.startswith(f"Table: {runs}/results/small.md, ")
    assert runs_line.startswith(f"Every run: `make ui RUNS={runs}`, then http://127.0.0.1:5000/#/experiments/")
    assert following.startswith("Next: the report, python -m reports ") and f"--runs {runs}" in following
    found = tracked(runs)
    assert [one.status for one in found] == ["FINISHED"] * 7
    assert sorted(one.tags["role"] for one in found) == ["student"] * 6 + ["teacher"]
    kd = next(one for one in found if one.tags["method"] == "kd")
    assert kd.tags["cohort"].startswith("resnet8 -> resnet8_half, seed")
    assert {"train/loss_ce", "train/loss_kd", "train/top1", "test/top1", "test/ece", "test/agreement", "lr"} <= set(
        kd.metrics
    )
    sdd = next(one for one in found if one.tags["method"] == "sdd_kd")
    assert 0 <= sdd.metrics["train/complementary_fraction"] <= 1
    names = {item.path for item in tracking.Tracker(runs).client.list_artifacts(kd.run_id)}
    assert names == {"config.json", "per_class_accuracy.csv", "training_curves.png", "student.safetensors"}
    table = pd.read_csv(runs / "results" / "small.csv")
    assert table["method"].tolist() == ["vanilla", "kd", "sdd_kd"]
    frame = results.frame(found)
    assert table.set_index("method")["last_mean"]["kd"] == pytest.approx(
        frame[(frame["method"] == "kd")]["last"].mean(), abs=1e-4
    )
    assert (runs / "results" / "small.md").read_text().startswith("## small")
    assert r"\toprule" in (runs / "results" / "small.tex").read_text()
    manifest = json.loads(next(runs.glob("teachers/*/*.json")).read_text())
    assert manifest["model"] == "resnet8"
    assert not list((runs / "work").iterdir())


def test_again_trains_nothing(done: tuple[Path, Path, Printed]) -> None:
    suite, runs, _ = done
    before = {one.run_id for one in tracked(runs)}
    printed = run(suite, runs)
    assert printed.code == 0
    assert "6 finished" in printed.text
    assert "starts" not in printed.text
    assert {one.run_id for one in tracked(runs)} == before


def test_the_status_of_a_finished_suite_needs_neither_torch_nor_mlflow(
    done: tuple[Path, Path, Printed], tmp_path: Path
) -> None:
    """Seen: 8 CPU-seconds and 860 MiB. A copy of the runs folder is known too."""
    suite, runs, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(runs, copy)
    start_s = footprint.start_s()
    ran = footprint.of(["benchmark", "status", str(suite), "--runs", str(copy)])
    assert "Plan: small, data digits" in ran.stdout and "Runs: 6 finished" in ran.stdout
    assert ran.heavy == set() and ran.cpu_s < 10 * start_s, (ran.cpu_s, start_s)


def test_a_remembered_status_is_forgotten_with_its_grounds(
    done: tuple[Path, Path, Printed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, runs, _ = done

    def known(*more: str) -> bool:
        given = looking.parser().parse_args(["status", str(suite), "--runs", str(copy), *more])
        return status.remembered(given) is not None

    copy = tmp_path / "copy"
    shutil.copytree(runs, copy)
    assert known()
    assert not known("--seeds", "1") and not known("--device", "cpu") and not known("--set", "kd.weight=1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert not known()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr(status, "_code", lambda: iter([Path(__file__)]))
    assert not known()
    monkeypatch.undo()
    weights = next(copy.glob("teachers/*/*.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not known()
    weights.write_bytes(content)
    assert known()
    tracker = tracking.Tracker(copy)
    assert not known()  # opening a copied store brings its artifacts home
    tracker.tag(tracked(copy)[0].run_id, {"seen": "yes"})
    assert not known()
    (copy / "known-status.json").write_text("{")
    assert not known()


def test_a_training_tells_status_how_far_it_is(tmp_path: Path) -> None:
    given = looking.parser().parse_args(["status", "digits", "--runs", str(tmp_path)])
    said = status.Progress("Plan: digits", (("a -> b", "to train"),), ("Runs: 1 in training",))
    with status.told(given) as tell, status.told(given) as tell_too:
        assert status.remembered(given) is None  # nothing was told yet
        tell(said)
        tell_too(status.Progress("of another process of the same plan", (), ()))
        assert status.remembered(given) == said
    assert status.remembered(given) is None


def test_the_status_of_an_interrupted_plan_is_remembered_until_its_checkpoints_change(tmp_path: Path) -> None:
    given = looking.parser().parse_args(["status", "digits", "--runs", str(tmp_path)])
    seen = status.Progress("Plan: digits", (), ("to resume after epoch 3: kd",))
    checkpoint = tmp_path / "work" / "0123456789abcdef" / "checkpoint"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"after epoch 3")
    status.remember(given, seen, reads_folder=False)
    assert status.remembered(given) == seen
    checkpoint.write_bytes(b"after epoch 4")
    assert status.remembered(given) is None


def test_a_dry_run_and_status_write_nothing(done: tuple[Path, Path, Printed], tmp_path: Path) -> None:
    suite, _, _ = done
    printed = run(suite, tmp_path / "runs", "--dry-run")
    assert printed.code == 0
    assert "6 to train" in printed.text
    assert "Dry run: nothing was trained." in printed.text
    assert f" on {device()}" in printed.text
    assert not list((tmp_path / "runs").rglob("*.db"))
    assert not list((tmp_path / "runs").rglob("checkpoint"))


def test_kill_9_and_the_same_command_ends_with_the_same_numbers(
    done: tuple[Path, Path, Printed], tmp_path: Path
) -> None:
    suite, runs, _ = done
    process = start(suite, tmp_path / "runs")
    assert process.stdout is not None
    for line in process.stdout:
        if "resnet8 -> resnet8_half" in line and "epoch" in line:
            break
    while not _students_running(tmp_path / "runs"):  # what is shown is recorded a little later
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while _children_left(process.pid):  # workers end with their parent
        time.sleep(0.05)
    assert "RUNNING" in {one.status for one in tracked(tmp_path / "runs")}
    printed = run(suite, tmp_path / "runs")
    assert printed.code == 0
    assert {one.status for one in tracked(tmp_path / "runs")} == {"FINISHED"}
    ours, theirs = final_weights(tmp_path / "runs", "weights"), final_weights(runs, "weights")
    assert ours.keys() == theirs.keys()
    for signature, weights in ours.items():
        for name, value in weights.items():
            assert value.equal(theirs[signature][name]), (signature, name)
    for column in ("last_mean", "best_test_mean", "gain"):
        pd.testing.assert_series_equal(
            pd.read_csv(tmp_path / "runs" / "results" / "small.csv")[column],
            pd.read_csv(runs / "results" / "small.csv")[column],
        )


def _students_running(runs: Path) -> int:
    """How many students stand as RUNNING, asked of the database itself, which takes no time."""
    query = "select count(*) from runs join tags using (run_uuid) where status = 'RUNNING' and value = 'student'"
    with closing(sqlite3.connect(runs / "mlflow.db", timeout=60)) as connection:
        return int(connection.execute(query).fetchone()[0])


def _children_left(parent: int) -> bool:
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"parent_pid={parent}" in process.read_bytes().decode(errors="replace"):
                return True
        except OSError:
            continue
    return False


def test_a_cache_is_filled_by_one_run_and_read_by_the_next(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, seeds=1, methods={"vanilla": {}, "kd": {}, "sdd_kd": {}})
    first = run(suite, tmp_path / "runs", "--methods", "kd", "--cache")
    assert first.code == 0
    assert "Teachers: outputs of the weak view rounded to fp16." in first.text
    (folder,) = (path for path in (tmp_path / "runs" / "cache").iterdir() if path.is_dir())
    marks = np.fromfile(folder / "marks.bin", np.uint64)
    again = run(suite, tmp_path / "runs", "--methods", "kd,sdd_kd", "--cache")
    assert "1 finished, 1 to train" in again.text
    assert np.array_equal(np.fromfile(folder / "marks.bin", np.uint64), marks)
    assert {one.params["teacher_cache"] for one in tracked(tmp_path / "runs") if "teacher" in one.tags} == {"fp16"}


class Terminal(io.StringIO):
    """Presses Ctrl-C once it shows that a student trains: a terminal sends it to the command and to its workers."""

    is_pressed = False

    def write(self, text: str) -> int:
        if "images/s" in text and not self.is_pressed:
            self.is_pressed = True
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid or 0, signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = suite_file(tmp_path, seeds=1, recipe={"epochs": 300, "batch_size": 32}, methods={"vanilla": {}})
    text = Terminal()
    with pytest.raises(SystemExit) as stopped:
        command_line.run(lambda *_: run(suite, tmp_path / "runs", engine="local", text=text).code)
    assert text.is_pressed
    assert stopped.value.code == 130
    assert "Stopping: every student is saved" in text.getvalue()
    assert "Stopped and saved. The same command resumes: " in text.getvalue()
    assert "Traceback" not in capsys.readouterr().err
    assert [one.status for one in tracked(tmp_path / "runs")] == ["KILLED"]
    again = run(suite, tmp_path / "runs", "--dry-run")
    assert "1 to resume" in again.text


class Ticks:
    """A clock on which every look takes a second, so that no sitting depends on the machine."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def sit(suite: Path, runs: Path, seconds: float, monkeypatch: pytest.MonkeyPatch) -> Printed:
    """Run the command under a deadline that leaves so many ticks."""
    with monkeypatch.context() as patch:
        patch.setattr(train, "Deadline", lambda *_: Deadline(seconds, clock=Ticks()))
        return run(suite, runs, "--deadline", "10h")


def test_many_sittings_end_with_the_bits_and_the_table_of_one(
    done: tuple[Path, Path, Printed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, whole, _ = done
    runs = tmp_path / "runs"
    first = sit(suite, runs, 9, monkeypatch)
    assert first.code == command_line.EXIT_DEADLINE
    assert re.search(r"The deadline leaves .*: nothing was trained. Give it more time with --deadline\.", first.text)
    assert not (runs / "mlflow.db").exists()
    printed = [sit(suite, runs, 20, monkeypatch)]
    assert "The deadline is near: every student is saved where it stands ..." in printed[0].text
    assert "Out of time, and everything saved. Left for the next sitting:\n  teacher resnet8: " in printed[0].text
    assert "\nThe same command resumes: " in printed[0].text
    (teacher,) = (one for one in tracked(runs) if one.tags["role"] == "teacher")
    assert (teacher.status, teacher.tags["failure"], teacher.tags["failure_reason"]) == (
        "KILLED", "retry", "deadline reached"
    )  # fmt: skip
    while printed[-1].code == command_line.EXIT_DEADLINE and len(printed) < 30:
        printed.append(sit(suite, runs, 24, monkeypatch))
    assert printed[-1].code == 0
    assert len(printed) > 3
    assert "Runs: 6 finished" in printed[-1].text
    tables = [(place / "results" / "small.csv").read_text().splitlines() for place in (runs, whole)]
    assert tables[0][0].endswith(",run_ids")  # which are drawn
    assert len({tuple(line.rpartition(",")[0] for line in table) for table in tables}) == 1
    ours, theirs = final_weights(runs, "w"), final_weights(whole, "w")
    assert ours.keys() == theirs.keys()
    for signature, weights in ours.items():
        assert all(torch.equal(value, theirs[signature][name]) for name, value in weights.items())
    assert [one.status for one in tracked(runs)] == ["FINISHED"] * 7
    seeds = [one.tags["seed"] for one in sorted(tracked(runs), key=lambda one: one.start_time)]
    assert seeds == sorted(seeds)


def test_with_time_enough_a_deadline_changes_nothing(
    done: tuple[Path, Path, Printed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, whole, _ = done
    printed = sit(suite, whole, 9, monkeypatch)  # everything is finished: nothing needs time
    assert printed.code == 0
    assert "deadline" not in printed.text
    outlook = run(suite, tmp_path / "runs", "--deadline", "10h", "--dry-run")
    assert outlook.code == 0
    assert "  resnet8 -> resnet8_half, seed 2: 2 finished\n" in outlook.text


def test_a_failed_run_is_final_until_asked_for(tmp_path: Path) -> None:
    methods = {"vanilla": {"recipe": {"lr": 1e30, "clip_norm": None}}, "kd": {}}
    suite = suite_file(tmp_path, seeds=1, methods=methods)
    first = run(suite, tmp_path / "runs")
    assert first.code == 1
    assert "the loss was not finite at epoch 1, step" in first.text
    assert "1 failed, 1 finished" in first.text or "1 finished, 1 failed" in first.text
    failed = next(one for one in tracked(tmp_path / "runs") if one.status == "FAILED")
    assert failed.final_failure
    second = run(suite, tmp_path / "runs")
    assert "starts" not in second.text
    third = run(suite, tmp_path / "runs", "--retry-failed")
    assert "starts" in third.text


def test_a_damaged_teacher_or_checkpoint_is_refused_before_training(
    done: tuple[Path, Path, Printed], tmp_path: Path
) -> None:
    suite, runs, _ = done
    weights = next(runs.glob("teachers/*/*.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(content[:-5])
    try:
        with pytest.raises(UserError, match="are damaged"):
            run(suite, runs)
    finally:
        weights.write_bytes(content)


def test_a_teacher_that_failed_fails_its_students(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, seeds=1, methods={"kd": {}}, teacher_recipe={"lr": 1e30}, convention="paper")
    for _ in range(2):
        printed = run(suite, tmp_path / "runs")
        assert printed.code == 1
        assert "teacher resnet8" in printed.text
        assert "not finite" in printed.text
        assert "1 failed" in printed.text
    assert "starts" not in printed.text
    assert "--retry-failed" in printed.text


def test_images_that_do_not_fit_into_memory_are_streamed(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    for split, label, number in product(("train", "test"), ("a", "b"), range(6)):
        path = tmp_path / "images" / split / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (40, 40, 3), generator=rng, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(path)
    tables = {}
    for name, memory_gb in (("streamed", 0), ("cached", 1)):
        data = {"name": "folder", "path": str(tmp_path / "images"), "image_size": 32, "memory_gb": memory_gb}
        suite = suite_file(tmp_path, data=data, seeds=1, methods={"vanilla": {}}, recipe={"epochs": 1, "batch_size": 4})
        printed = run(suite, tmp_path / name)
        assert printed.code == 0, printed.text
        weights = final_weights(tmp_path / name, "weights")
        tables[name] = next(iter(weights.values()))
    assert all(value.equal(tables["cached"][key]) for key, value in tables["streamed"].items())


def test_a_training_set_smaller_than_its_only_batch_is_refused(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, recipe={"epochs": 1, "batch_size": 512, "drop_last": True})
    with pytest.raises(UserError, match=r"recipe.batch_size: digits has 96 train images, fewer than one batch of 512"):
        run(suite, tmp_path / "runs")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "unknown suite 'digit'; did you mean 'digits'?"),
        (["digits", "--methods", "kdd"], "unknown distiller 'kdd'; did you mean 'kd'?"),
        (["digits", "--sed", "3"], "unknown argument '--sed'"),
        (["digits", "--seeds", "0"], "must be a whole number from 1 to 1,000"),
        (["digits", "--device", "tpu"], "--device tpu"),
        (["digits", "--device", "cuda:99"], "CUDA devices; use cpu"),
        (
            ["cifar100", "--offline", "--data", "nowhere"],
            "nowhere/cifar-100-python.tar.gz (169 MB, md5 eb9058c3a382ffc7106e4002c42a8d85)",
        ),
        (["folder"], "--set data.path="),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command_line.run(lambda _, console: module.main([*arguments, "--runs", str(tmp_path / "runs")], console))
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert message in printed.err
    assert printed.err.count("\n") == 1
