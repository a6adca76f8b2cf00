"""The commands that look and prepare."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console

import benchmark.__main__ as module
import distillers
import models
from benchmark import catalogue, datasets
from benchmark.commands import prepare
from benchmark.datasets.base import DataSet, MemoryImages
from benchmark.errors import UserError
from benchmark.tracking import Tracker
from benchmark.train import teacher_store
from benchmark.train.lane import create_network
from benchmark.train.messages import TeacherFile
from tests.conftest import SMALL_SUITE, make_config


def command(*arguments: str) -> str:
    text = io.StringIO()
    assert module.main(arguments, Console(file=text, width=140, markup=False, highlight=False)) == 0
    return text.getvalue()


def test_list_names_everything_that_is_registered() -> None:
    text = command("list")
    for name in [*distillers.names(), *models.names(), *datasets.names(), *catalogue.suites()]:
        assert f" {name} " in f"{text} ".replace("\n", " "), name
    assert "timm/<name>" in text
    assert "cifar100" not in command("list", "methods")
    assert "sdd_beta" in command("list", "studies") and "verdict" in command("list", "sections")


@pytest.mark.parametrize("name", distillers.names())
def test_show_prints_every_hyperparameter_with_its_range(name: str) -> None:
    text = command("show", name)
    for group, parameters in distillers.groups(name).items():
        for field in parameters.model_fields:
            assert f"{group}.{field}" in text


def test_show_prints_the_docstring_without_its_indent() -> None:
    paragraphs = command("show", "sdd_kd").split("\n\n")
    assert paragraphs[0] == "SD-KD (sdd_kd)"
    assert not any(line.startswith(" ") for text in paragraphs[:4] for line in text.splitlines())


def test_show_knows_models_data_sets_and_suites() -> None:
    assert "1.234 M parameters, last map 256 x 8 x 8" in command("show", "resnet8x4")
    text = command("show", "digits")  # a data set and a suite
    assert "data set digits" in text
    assert "resnet8x2:resnet8_half" in text
    assert "options: path, image_size" in command("show", "folder")
    assert "sdd/table5" in command("show", "cub")
    with pytest.raises(UserError, match=r"nothing is called 'sdd_kdd'; did you mean 'sdd_kd'\?"):
        command("show", "sdd_kdd")


def test_status_says_what_is_missing_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL_SUITE))
    text = command("status", str(path), "--runs", str(tmp_path / "runs"))
    assert "Runs: 10 to train" in text
    assert not (tmp_path / "runs").exists()


def test_prepare_says_what_the_data_are(tmp_path: Path, digits: DataSet) -> None:
    text = command("prepare", "digits", "--runs", str(tmp_path))
    assert "digits: 4,000 train and 2,000 test images, 10 classes, seen at 16 x 16" in text
    assert f"digest: {digits.digest}" in text
    with pytest.raises(UserError, match=r"unknown data set 'digit'; did you mean 'digits'\?"):
        command("prepare", "digit")
    with pytest.raises(UserError, match="only data"):
        command("prepare", "digits", "--set", "sdd.beta=2")


def test_prepare_fills_view_caches_and_goes_on(
    tmp_path: Path, digits: DataSet, teacher_file: TeacherFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(root: Path) -> DataSet:
        train = MemoryImages(digits.train.pixels_NCHW[:80], digits.train.targets[:80])  # type: ignore[attr-defined]
        return replace(digits, name="few", train=train, digest="few")

    monkeypatch.setitem(datasets.registry._entries, "few", few)
    places = ("--runs", str(tmp_path), "--threads", "1")
    with pytest.raises(UserError, match="no teacher of few is stored"):
        command("prepare", "few", "--cache", *places)
    weights, about = teacher_store.load_weights(teacher_file), {"device": "a CPU", "origin": "trained"}
    teacher_store.store(tmp_path / "teachers", few(tmp_path), "resnet8", weights, test_top1=10.0, **about)
    first, again = (command("prepare", "few", "--cache", *places) for _ in range(2))
    assert "resnet8: 0 of 2,000 views are stored" in first
    assert "resnet8: 2,000 views computed" in first
    assert "resnet8: 2,000 of 2,000 views are stored" in again
    assert "resnet8: 0 views computed" in again
    with pytest.raises(UserError, match=r"--cache resnet80: .*resnet8"):
        command("prepare", "few", "--cache", "resnet80", *places)
    # a teacher of other settings, such as a profile's, has the same images
    other = {name: value + 1 for name, value in weights.items()}
    teacher_store.store(
        tmp_path / "teachers", few(tmp_path), "resnet8", other, signature="s", epochs=2, test_top1=20.0, **about
    )
    for chosen in ("resnet8", "all"):
        with pytest.raises(
            UserError, match=r"2 teachers resnet8 of few are stored; name one by its checksum: \w{12} \("
        ):
            command("prepare", "few", "--cache", chosen, *places)
    listed = {manifest.epochs: manifest for _, manifest in teacher_store.manifests(tmp_path / "teachers")}
    assert "resnet8: 0 of 2,000 views" in command("prepare", "few", "--cache", listed[2].checksum[:12], *places)
    assert "2,000 of 2,000 views" in command("prepare", "few", "--cache", listed[None].checksum[:12], *places)
    listed[2].file(tmp_path / "teachers" / "few").path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"takes 0\.000656 GB .*--cache-gb allows 0\.0001"):
        command("prepare", "few", "--cache", "--cache-gb", "0.0001", *places)

    def read_only(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(prepare, "open_caches", read_only)
    with pytest.raises(UserError, match=r"--cache: the view cache .*Permission denied.*: make it writable"):
        command("prepare", "few", "--cache", *places)


def test_teachers_are_imported_and_listed(tmp_path: Path) -> None:
    runs = ["--runs", str(tmp_path / "runs")]
    assert "no teachers under" in command("teachers", "list", *runs)
    checkpoint = tmp_path / "published" / "resnet8_vanilla" / "ckpt_epoch_240.pth"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"model": create_network("resnet8", 10, 16, seed=0).state_dict()}, checkpoint)
    text = command("teachers", "import", str(tmp_path / "published"), "digits", "--device", "cpu", *runs)
    assert text.startswith("imported resnet8: ")
    listed = command("teachers", "list", *runs)
    assert "resnet8" in listed
    assert "digits" in listed
    with pytest.raises(UserError, match="name the folder"):
        command("teachers", "import", *runs)


def test_export_can_be_moved(tmp_path: Path, digits: DataSet) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(UserError, match="nothing is tracked under"):
        command("export", str(tmp_path / "out"), "--runs", str(runs))
    tracker = Tracker(runs)
    experiment = tracker.experiment("small", {"suite": "small"})
    about = {"role": "student", "name": "kd", "parent": None, "tags": {}}
    run_id = tracker.start(experiment, make_config("kd"), "abc", digits, **about)  # type: ignore[arg-type]
    tracker.log_epochs(run_id, [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.01}])
    tracker.artifacts(run_id, {"config.json": b"{}"})
    tracker.end(run_id, "FINISHED")
    out = tmp_path / "out"
    assert "1 runs of 1 experiments" in command("export", str(out), "--runs", str(runs))
    assert pd.read_csv(out / "runs.csv")["signature"].tolist() == ["abc"]
    assert pd.read_csv(out / "epochs.csv")["value"].tolist() == [0.1, 0.01]
    assert (out / "artifacts" / "abc" / "config.json").read_bytes() == b"{}"
    assert not [path for path in out.rglob("*.csv") if str(tmp_path) in path.read_text()]
    with pytest.raises(UserError, match=r"no experiment 'smal'; did you mean 'small'\?"):
        command("export", str(out), "smal", "--runs", str(runs))


def test_the_ui_needs_something_to_show(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is tracked under"):
        command("ui", "--runs", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "unknown word 'lst'; did you mean 'list'?"),
        (["list", "model"], "unknown word 'model'; did you mean 'models'?"),
        (["status", "--mthods", "kd"], "unknown argument '--mthods'; did you mean '--methods'?"),
        (["prepare", "digits", "--threads", "0"], "--threads: must be a whole number from 1 to 1,024, got '0'"),
    ],
)
def test_mistyped_words_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        module.main(arguments, Console())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
