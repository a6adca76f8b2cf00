"""The doctor: what is wrong, how to mend it, and nothing mended that somebody holds."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from rich.console import Console

import benchmark.__main__ as module
from benchmark import doctor, tracking
from benchmark.datasets.base import DataSet
from benchmark.doctor import environment
from benchmark.execution.options import Options
from benchmark.train.messages import TeacherFile
from tests.benchmark.test_tracking import start


def examined(runs: Path, *arguments: str) -> tuple[int, str]:
    text = io.StringIO()
    places = ("--runs", str(runs), "--data", str(runs.parent / "data"))
    code = module.main(["doctor", *places, *arguments], Console(file=text, width=200, markup=False, highlight=False))
    return code, text.getvalue()


@pytest.fixture(autouse=True)
def _locked_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of whoever runs the tests is not their subject."""
    monkeypatch.setattr(environment, "ROOT", tmp_path)


@pytest.fixture
def ill(runs_folder: Path, digits: DataSet, teacher_file: TeacherFile) -> Path:
    """A runs folder with one thing of every kind that may be wrong."""
    options = Options(runs_folder, runs_folder.parent / "data")
    tracker = tracking.Tracker(runs_folder)
    start(tracker, digits, "gone", runs_folder=options.identity())
    tracker.end(start(tracker, digits, "done"), "FINISHED")
    (runs_folder / "artifacts" / "small").mkdir(parents=True)
    for signature in ("done", "gone"):
        options.work(signature).mkdir(parents=True)
        (options.work(signature) / "checkpoint").write_bytes(b"x")
    (options.work("gone") / "checkpoint.partial").write_bytes(b"x")
    shutil.copytree(teacher_file.path.parent.parent, options.teachers)
    stem = options.teachers / teacher_file.path.parent.name / teacher_file.path.stem
    stem.with_suffix(".safetensors").write_bytes(b"damaged")
    (stem.parent / "other.safetensors").write_bytes(b"")
    options.cache.mkdir()
    (options.cache / "cub-train-1.npy").write_bytes(b"x")
    views = options.cache / "views-resnet8-1"
    views.mkdir()
    (views / "manifest.json").write_text(json.dumps({"teacher_checksum": "unknown"}))
    np.array([0, 5], np.uint64).tofile(views / "marks.bin")
    (options.cache / "views-resnet8-2").mkdir()
    return runs_folder


def test_a_new_folder_is_well(tmp_path: Path) -> None:
    code, text = examined(tmp_path / "runs")
    assert code == 0
    assert text.splitlines()[-1] == "Nothing is wrong."
    assert {line.split()[0] for line in text.splitlines()[:-1]} <= {"ok", "note"}
    assert not (tmp_path / "runs").exists()


def test_what_is_wrong_is_named_and_mended_where_that_is_safe(ill: Path) -> None:
    code, text = examined(ill)
    assert code == 1
    wrong = [line for line in text.splitlines() if line.startswith("wrong")]
    expected = [
        *("is RUNNING and its process is gone", "done is of a finished run", "checkpoint.partial was not written"),
        *("cub-train-1.npy is damaged", "views-resnet8-2 is damaged", "other.safetensors has no manifest"),
        "teacher weights",
    ]
    for words in expected:
        assert sum(words in line for line in wrong) == 1, words
    assert len(wrong) == len(expected)
    assert "1 of 2 views" in text
    assert "`python -m benchmark doctor --fix` fixes 5 of these.\n7 wrong.\n" in text
    code, text = examined(ill, "--fix")
    assert (code, text.splitlines()[-1]) == (1, "2 wrong.")  # teachers are not deleted by a command that tidies
    assert text.count("\nfixed") == 5
    assert {path.name for path in (ill / "work").iterdir()} == {"gone"}
    assert [path.name for path in (ill / "work" / "gone").iterdir()] == ["checkpoint"]
    (run,) = tracking.Tracker(ill).runs_with(["gone"])
    assert (run.status, run.tags["failure"]) == ("KILLED", "retry")
    assert (ill / "cache" / "views-resnet8-1").exists()
    assert examined(ill)[1].count("\nwrong") == 2


def test_what_a_process_holds_stays(ill: Path) -> None:
    options = Options(ill, ill)
    with FileLock(options.lock_file("done")), FileLock(f"{ill / 'cache' / 'views-resnet8-2'}.lock"):
        code, text = examined(ill, "--fix")
        assert options.work("done").exists()
        assert (ill / "cache" / "views-resnet8-2").exists()
    assert code == 1
    assert text.count("\nkept") == 2
    assert "locks/done.lock is held by process" in text


def test_a_store_that_does_not_open_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("nonsense" * 1000)
    code, text = examined(tmp_path)
    assert code == 1
    assert "wrong  tracking: cannot open the tracking store" in text
    assert "\nok     partial files: none" in text  # the other checks are made all the same


def test_packages_that_are_not_as_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.lock").write_text("torch==0.1 \\\n    --hash=x\nfilelock==1\nnot-there==1\nalso==2\n")
    monkeypatch.setattr(environment, "_required", lambda: ["torch>=2", "also>1"])
    places = doctor.Places(Options(tmp_path, tmp_path))
    found: Iterator[doctor.Finding] = environment.packages(places)
    texts = [(one.mark, one.text) for one in found]
    assert texts[0] == ("wrong", "not installed: also; `make install` installs the lock file")
    assert texts[1][0] == "note"
    assert "torch 2" in texts[1][1]
    assert "(locked: 0.1)" in texts[1][1]
