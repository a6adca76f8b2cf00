"""Files of measured results: read as they were written, refused where they are damaged, and beside one's own runs."""

from __future__ import annotations

import csv
import io
import math
import random
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import distillers
from benchmark import run
from benchmark.analysis import measured
from benchmark.analysis.comparison import RUN_COLUMNS, comparison
from benchmark.analysis.latex import latex
from benchmark.analysis.measured import MeasuredRun
from benchmark.analysis.table import Table
from benchmark.commands import train
from benchmark.commands.train import DISPENSABLE
from benchmark.errors import UserError
from benchmark.plan import suite
from benchmark.plan.resolve import make_plan
from distillers.sample_loss import SampleLoss, sample_loss
from tests.benchmark.analysis import measured_runs
from tests.benchmark.analysis.test_table import FULL, PAIR, cells, line, plan, runs
from tests.reports.synthetic import DIGEST

RUNS = [measured_runs.run(seed=1), measured_runs.run(seed=2), measured_runs.run(seed=3, failed=True)]


def written(folder: Path, text: str) -> Path:
    path = measured.path_of("cifar100", folder)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def test_a_file_is_read_as_it_was_written_to_the_last_digit(tmp_path: Path) -> None:
    draw = random.Random(0)
    made = [
        measured_runs.run(seed=seed, last=100 * draw.random(), best_test=100 / 3, train_seconds=draw.random() * 1e6)
        for seed in range(1, 50)
    ]
    made.append(measured_runs.run(seed=77, failed=True, failure='the loss was not finite, "nan" at epoch 3, step 1'))
    text = measured.to_csv(made)
    assert measured.to_csv(reversed(made)) == text, "sorted, whatever came first"
    read = measured.load(written(tmp_path, text))
    assert {run.signature: run for run in read} == {run.signature: run for run in made}
    assert measured.to_csv(read) == text


def test_a_suite_of_which_nothing_is_measured_has_no_rows(tmp_path: Path) -> None:
    assert measured.load(measured.path_of("cifar100", tmp_path)) == []
    assert measured.load(written(tmp_path, measured.to_csv([]))) == []


def test_every_file_of_the_checkout_can_be_read() -> None:
    assert measured.FOLDER.is_dir()
    for path in measured.FOLDER.glob("*.csv"):
        assert measured.to_csv(measured.load(path)) == path.read_text()
        assert path.stem in suite.names()


def test_a_damaged_file_ends_a_command_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    monkeypatch.setattr(train, "look", lambda *_, **__: pytest.fail("it went on"))
    measured.path_of("digits").write_text("signature\n")
    with pytest.raises(UserError, match="line 1: column configuration is missing"):
        run.main(["digits", "--dry-run", "--runs", str(tmp_path / "runs")], Console(quiet=True))


def cell(column: str, value: str, line: int = 2) -> Callable[[str], str]:
    """Put a value into a cell of a file."""

    def changed(text: str) -> str:
        rows = list(csv.reader(text.splitlines()))
        rows[line - 1][measured.COLUMNS.index(column)] = value
        made = io.StringIO()
        csv.writer(made, lineterminator="\n").writerows(rows)
        return made.getvalue()

    return changed


@pytest.mark.parametrize(
    ("damage", "where", "what"),
    [
        (cell("last", "seventy"), "line 2: column last", "should be a valid number"),
        (cell("last", "nan"), "line 2: column last", "finite number"),
        (cell("last", "inf", 3), "line 3: column last", "finite number"),
        (cell("best_test", "100.01", 3), "line 3: column best_test", "less than or equal to 100"),
        (cell("best_test", "-1"), "line 2: column best_test", "greater than or equal to 0"),
        (cell("last", ""), "line 2: ", "a finished run has last and best_test"),
        (cell("last", "70", 4), "line 4: ", "a failed run has neither"),
        (cell("status", "DONE"), "line 2: column status", "'finished' or 'failed'"),
        (cell("signature", f"{1:016x}", 3), "line 3: column signature", "is that of line 2 too"),
        (cell("signature", "../../x"), "line 2: column signature", "pattern"),
        (cell("configuration", ""), "line 2: column configuration", "valid string (got None)"),
        (cell("date", "2026-02-30T00:00:00Z"), "line 2: column date", "a time in utc"),
        (cell("date", "yesterday"), "line 2: column date", "a time in utc"),
        (cell("seed", "0"), "line 2: column seed", "greater than or equal to 1"),
        (cell("epochs", "2.5"), "line 2: column epochs", "valid integer"),
        (cell("dirty", "perhaps"), "line 2: column dirty", "valid boolean"),
        (cell("train_seconds", "-3"), "line 2: column train_seconds", "greater than or equal to 0"),
        (cell("teacher_checksum", ""), "line 2: ", "a teacher has a teacher_checksum"),
        (cell("method", "a\x1bb"), "line 2: column method", "control character"),
        (cell("last", "last_", 1), "line 1: column 'last_' is unknown", "the columns are signature, "),
        (cell("last", "best_test", 1), "line 1: column last is missing", "git checkout"),
        (lambda text: text.replace("75.25", "75,25", 1), "line 2: has 25 cells where 24 belong", "git checkout"),
        (lambda text: text.replace("\n", ",last\n", 1), "line 1: the columns are signature, ", "once"),
        (lambda text: f"{text}<<<<<<< HEAD\n", "line 5: has 1 cells", "git checkout"),
        (lambda text: "", "line 1: column signature is missing", "git checkout"),
        (lambda text: f'{text}"', "line 5: is not CSV: ", "git checkout"),
        (lambda text: text.replace("a CPU", "a \udcff", 1), "line 2: is not text in UTF-8", "git checkout"),
    ],
)
def test_a_damaged_file_is_refused_with_line_column_and_way_out(
    damage: Callable[[str], str], where: str, what: str, tmp_path: Path
) -> None:
    path = written(tmp_path, damage(measured.to_csv(RUNS)))
    with pytest.raises(UserError, match=re.escape(what)) as raised:
        measured.load(path)
    assert str(raised.value).startswith(f"{path}, {where}")
    assert str(raised.value).endswith(f"restore the file: git checkout -- {path}")


def test_a_method_that_this_version_does_not_know_is_named(tmp_path: Path) -> None:
    read = measured.load(written(tmp_path, measured.to_csv([*RUNS, measured_runs.run(seed=9, method="of_tomorrow")])))
    found = measured.of_plan(read, plan(), "cifar100")
    assert found.unknown == ("of_tomorrow",)
    (note,) = found.notes(FULL)
    assert note == "reports/measured/cifar100.csv has rows of methods that this version does not know: of_tomorrow."


PLAN = plan()


def table(of_project: list[MeasuredRun], frame: pd.DataFrame = FULL) -> Table:
    return comparison(PLAN, frame, {}, measured=measured.of_plan(of_project, PLAN, "cifar100", DIGEST))


def by_method(**last: list[float]) -> list[MeasuredRun]:
    """Measured runs of the plan, by method and seed."""
    configs = [one.config for one in PLAN.runs]
    return [
        measured_runs.of_config(config, number, last=value, best_test=value + 0.5)
        for number, config in enumerate(configs)
        for value in last.get(config.method, [])[config.repetition - 1 : config.repetition]
    ]


def test_published_measured_and_ones_own_stand_in_a_row() -> None:
    made = table(by_method(vanilla=[70.0, 71.0, 72.0], kd=[75.0]))
    assert [column.header for column in made.columns] == [
        "Method", "last", "best (selected on test)", "gain in last [95%]", "outcome", "measured last", "measured best",
        "published", "ours − published", "seeds",
    ]  # fmt: skip
    shown = cells(made)
    assert (shown["Student"]["measured last"], shown["Student"]["measured best"]) == (
        "71.00 ± 1.00 n=3",
        "71.50 ± 1.00 n=3",
    )
    assert (shown["KD"]["measured last"], shown["KD"]["last"], shown["KD"]["published"]) == (
        "75.00 n=1",
        "75.00 ± 1.00",
        "74.45",
    )
    assert shown["SD-KD"]["measured last"] == "—"
    assert (line(made, "vanilla")["measured_last_mean"], line(made, "vanilla")["measured_num_seeds"]) == ("71.0", "3")
    assert line(made, "sdd_kd")["measured_best_test_mean"] == ""
    (note,) = [note for note in made.notes if note.startswith("measured: ")]
    assert "reports/measured/cifar100.csv: 4 runs on a CPU, commit c0ffee012345, teacher resnet32x4 79.50" in note
    assert "| measured last |" in made.to_markdown()
    assert "measured last &" in latex(made, "t")


def test_without_a_measured_run_the_table_is_as_before() -> None:
    for nothing in ([], [measured_runs.run()]):
        assert table(nothing) == comparison(PLAN, FULL, {})


def test_without_published_values_only_the_headline_is_measured() -> None:
    digits = make_plan(suite.load("digits"))
    found = measured.of_plan(measured_runs.of_plan(digits, dataset="digits"), digits, "digits", DIGEST)
    headers = [column.header for column in comparison(digits, pd.DataFrame(), {}, measured=found).columns]
    assert headers[-3:] == ["outcome", "measured last", "seeds"]


@pytest.mark.parametrize("changes", [["sdd.beta=4"], ["recipe.epochs=60"], ["recipe.lr=0.3"], ["precision=bf16"]])
def test_runs_of_other_settings_are_not_mixed_in(changes: list[str]) -> None:
    of_project = measured_runs.of_plan(PLAN)
    other = make_plan(suite.load("cifar100"), methods=["sdd_kd"], pairs=[PAIR], assignments=changes)
    assert not measured.of_plan(of_project, other, "cifar100", DIGEST)
    assert measured.of_plan(of_project, plan(["sdd_kd"]), "cifar100", DIGEST)
    assert not measured.of_plan(of_project, plan(["sdd_kd"], profile="smoke"), "cifar100", DIGEST)


def test_the_rounding_of_a_teacher_and_the_number_of_seeds_are_no_other_settings() -> None:
    """They follow from the device, and from how long one wants to wait."""
    of_gpu = make_plan(suite.load("cifar100").model_copy(update={"teacher_precision": "bf16"}), pairs=[PAIR], seeds=5)
    found = measured.of_plan(measured_runs.of_plan(of_gpu, teacher_precision=None), plan(seeds=1), "cifar100", DIGEST)
    assert len(found.scores(PLAN.pairs[0], "sdd_kd").values) == 5


def test_numbers_of_several_teachers_are_not_averaged() -> None:
    """Nor of other images: those of the plan's teacher that has the most runs count, and the rest is said."""
    kd = [one for one in measured_runs.of_plan(PLAN) if one.method == "kd"]
    other = [one.model_copy(update={"signature": "f" * 16, "teacher_checksum": "f" * 64, "last": 10.0}) for one in kd]
    foreign = [one.model_copy(update={"signature": "a" * 16, "data_digest": "a" * 64, "last": 10.0}) for one in kd[:1]]
    rounded = [one.model_copy(update={"signature": "b" * 16, "teacher_precision": "bf16"}) for one in kd[:1]]
    runs = [*other[:2], *kd, *foreign, *rounded]
    for digest in (DIGEST, ""):
        found = measured.of_plan(runs, PLAN, "cifar100", digest)
        assert sorted(found.scores(PLAN.pairs[0], "kd").values) == sorted(one.last for one in kd if one.last)
        assert found.num_left_out == 4
    assert any(
        note.startswith("4 more measured runs of these settings, under other teachers") for note in found.notes(FULL)
    )
    assert not measured.of_plan(runs, PLAN, "cifar100[10 classes]", DIGEST)


def test_failed_runs_are_counted_and_give_no_number() -> None:
    of_project = by_method(kd=[75.0, 76.0, 77.0])
    failed = {"status": "failed", "last": None, "best_test": None, "failure": "the loss"}
    made = table([*of_project[:2], of_project[2].model_copy(update=failed)])
    assert cells(made)["KD"]["measured last"] == "75.50 ± 0.71 n=2"
    assert any("3 runs, 1 failed, on a CPU" in note for note in made.notes)


OURS = FULL.assign(machine=measured_runs.MACHINE, teacher_checksum="e" * 64)


def not_reproduced(made: Table) -> list[str]:
    return [note for note in made.notes if note.startswith("Not reproduced")]


def test_another_digit_on_the_same_kind_of_machine_is_said() -> None:
    same = by_method(vanilla=[71.0, 72.0, 73.0], kd=[74.0, 75.0, 76.0])
    assert not_reproduced(table(same, OURS)) == []
    other = [one.model_copy(update={"last": math.nextafter(75.0, 76)}) if one.last == 75.0 else one for one in same]
    assert not_reproduced(table(other, OURS)) == [
        "Not reproduced: 1 of 6 runs differ from the same run that the project measured on the same kind of machine."
        " resnet32x4 -> shufflenet_v2, kd, seed 2: last 75.0, measured 75.00000000000001."
    ]
    assert not_reproduced(table(other, OURS.assign(machine="NVIDIA H200, compute capability 9.0"))) == []
    assert not_reproduced(table(other, FULL)) == [], "no machine was recorded"
    best = [one.model_copy(update={"best_test": 99.0}) for one in same]
    (note,) = not_reproduced(table(best, OURS.assign(teacher_checksum="a" * 64)))
    assert "6 of 6 runs differ" in note and "3 of them under a teacher with other weights" in note
    assert "best_test 71.5, measured 99.0" in note and note.endswith("; and 3 more.")


def test_a_narrow_terminal_keeps_ones_own_and_what_is_measured() -> None:
    made = table(by_method(kd=[75.0, 76.0, 77.0]))
    headers = {width: [one.header for one in made.fitted(width, DISPENSABLE)[0].columns] for width in (160, 90)}
    assert headers[160] == [column.header for column in made.columns]
    assert headers[90] == ["Method", "last", "gain in last [95%]", "outcome", "measured last", "seeds"]


def test_settings_do_not_depend_on_the_machine_and_the_seed_and_on_all_else() -> None:
    config = plan(["sdd_kd"]).runs[0].config
    for same in ({"repetition": 7}, {"teacher_precision": "bf16"}, {"teacher_cache": "fp16"}):
        assert config.model_copy(update=same).settings_hash == config.settings_hash
    data = config.data.model_copy(update={"options": {"cache": "/elsewhere"}})
    assert config.model_copy(update={"data": data}).settings_hash == config.settings_hash
    others = ({"teacher": "resnet56"}, {"student": "resnet20"}, {"method": "kd"}, {"precision": "bf16"},
              {"base_seed": 1}, {"eval_every": 2}, {"tuning": True}, {"compile": True})  # fmt: skip
    hashes = {config.model_copy(update=other).settings_hash for other in others}
    assert len(hashes | {config.settings_hash}) == len(others) + 1


def test_a_changed_loss_is_another_configuration() -> None:
    def settings(version: int) -> str:
        sample_loss("mine", title="Mine", numerics_version=version)(
            type("Mine", (SampleLoss,), {"__doc__": "A loss.", "per_sample": lambda self, s, t, y: (s - t).mean(-1)})
        )
        try:
            return plan(["mine"]).runs[0].config.settings_hash
        finally:
            for name in ("mine", "sdd_mine"):
                distillers.registry.remove(name)

    assert settings(1) != settings(2)


def test_own_columns_are_those_that_the_comparison_reads() -> None:
    assert {"machine", "teacher_checksum"} <= set(RUN_COLUMNS)
    assert runs("kd", [70.0])[0].keys() <= set(RUN_COLUMNS)
