"""MLflow: the store is made once, and says what was logged, once."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark import known_runs, results, saved_views, tracking
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from tests.conftest import make_config
from tests.processes import exit_code
from tests.processes import start as start_process


@pytest.fixture
def tracker(runs_folder: Path) -> tracking.Tracker:
    return tracking.Tracker(runs_folder)


def start(tracker: tracking.Tracker, data: DataSet, signature: str, method: str = "kd", **tags: str) -> str:
    experiment = tracker.experiment("small", {"suite": "small"})
    parent = tracker.parent(experiment, "resnet8 -> resnet8_half", {"pair": "resnet8 -> resnet8_half"})
    return tracker.start(
        experiment, make_config(method), signature, data, role="student", name="kd", parent=parent,
        tags={"teacher": "resnet8", **tags},
    )  # fmt: skip


def make_experiment(runs: Path) -> None:
    """Do what a command does first."""
    tracking.Tracker(runs).experiment("small", {"suite": "small"})


@pytest.mark.processes
@pytest.mark.usefixtures("runs_folder", "new_stores_are_made")  # what makes a store is imported
def test_processes_that_start_together_make_one_sound_database(tmp_path: Path) -> None:
    processes = [start_process(make_experiment, tmp_path / "new") for _ in range(3)]
    assert [exit_code(process) for process in processes] == [0, 0, 0]
    assert list(tracking.Tracker(tmp_path / "new").experiments()) == ["small"]


def test_a_run_holds_what_it_was_and_what_it_reached(tracker: tracking.Tracker, digits: DataSet) -> None:
    run_id = start(tracker, digits, "s1")
    tracker.log_epochs(
        run_id, [{"epoch": 1, "lr": 0.1, "test/top1": 50.0}, {"epoch": 2, "lr": 0.01, "test/top1": 48.0}]
    )
    tracker.summarise(run_id, {"final/last": 48.0, "final/best_selected_on_test": 50.0})
    tracker.artifacts(run_id, {"config.json": b"{}"})
    tracker.end(run_id, "FINISHED")
    found = next(run for run in tracker.runs_on(digits.digest) if run.signature == "s1")
    assert found.status == "FINISHED"
    assert found.params["kd.temperature"] == "4.0"
    assert found.params["recipe.lr"] == "0.05"
    assert {"git_commit", "git_dirty", "command", "versions", "host"} <= found.tags.keys()
    run = tracker.client.get_run(run_id)
    assert run.inputs.dataset_inputs[0].dataset.digest == digits.digest[:36]
    parent = tracker.client.get_run(found.tags["mlflow.parentRunId"])
    assert parent.info.run_name == "resnet8 -> resnet8_half"
    assert tracker.history(run_id, "test/top1") == [(1, 50.0), (2, 48.0)]
    assert tracker.epochs_logged(run_id) == {1, 2}
    row = results.frame([found]).iloc[0]
    assert (row["last"], row["best_test"], row["method"], row["epochs"]) == (48.0, 50.0, "kd", 2)
    frame = results.epochs(tracker, [found])
    assert frame[frame["metric"] == "lr"]["value"].tolist() == [0.1, 0.01]


def test_pairs_and_experiments_are_made_once(tracker: tracking.Tracker, digits: DataSet) -> None:
    one, other = start(tracker, digits, "p1"), start(tracker, digits, "p2")
    parents = {tracker.client.get_run(run).data.tags["mlflow.parentRunId"] for run in (one, other)}
    assert len(parents) == 1
    assert tracker.runs_on("another digest") == []


def test_unfinished_runs_show_no_result(tracker: tracking.Tracker, digits: DataSet) -> None:
    run_id = start(tracker, digits, "u1")
    tracker.summarise(run_id, {"final/last": 99.0})
    tracker.end(run_id, "KILLED")
    found = results.frame(tracker.runs_on(digits.digest), {"u1"})
    assert found["status"].tolist() == ["KILLED"]
    assert found["last"].isna().all()


def test_of_runs_with_one_signature_the_finished_one_counts(tracker: tracking.Tracker, digits: DataSet) -> None:
    tracker.end(start(tracker, digits, "d1"), "KILLED")
    done = start(tracker, digits, "d1")
    tracker.end(done, "FINISHED")
    tracker.end(start(tracker, digits, "d1"), "FAILED")
    assert results.frame(tracker.runs_on(digits.digest), {"d1"})["run_id"].tolist() == [done]


def test_selections_are_named() -> None:
    rows = [
        {"epoch": 1, "test/top1": 60.0, "val/top1": 70.0},
        {"epoch": 2},
        {"epoch": 3, "test/top1": 65.0, "val/top1": 69.0},
        {"epoch": 4, "test/top1": 61.0, "val/top1": 70.0},
    ]
    assert results.selections(rows) == {"final/last": 61.0, "final/best_selected_on_test": 65.0, "final/best_val": 60.0}
    assert "final/best_val" not in results.selections([{"epoch": 1, "test/top1": 5.0}])


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot use the runs folder"):
        tracking.Tracker(tmp_path / "file" / "runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    with pytest.raises(UserError, match="cannot open the tracking store nonsense://store"):
        tracking.Tracker(tmp_path / "runs")


def test_looking_makes_no_database(tmp_path: Path) -> None:
    assert tracking.open_existing(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_runs_are_found_by_signature_as_the_store_has_them_now(runs_folder: Path, digits: DataSet) -> None:
    tracker, elsewhere = tracking.Tracker(runs_folder), tracking.Tracker(runs_folder)

    def found(*signatures: str) -> list[tuple[str, str]]:
        return [(run.run_id, run.status) for run in tracker.runs_with(signatures)]

    one = start(tracker, digits, "a1")
    start(tracker, digits, "foreign")
    assert found("a1", "b1", "a1") == [(one, "RUNNING")]
    assert found() == []
    tracker.end(one, "FINISHED")
    two = start(elsewhere, digits, "b1")  # what another process wrote since
    again = start(elsewhere, digits, "a1")
    assert sorted(found("a1", "b1")) == sorted([(one, "FINISHED"), (two, "RUNNING"), (again, "RUNNING")])
    tracker.client.delete_run(one)
    assert found("a1") == [(again, "RUNNING")]
    tracker.client.restore_run(one)
    assert sorted(found("a1")) == sorted([(one, "FINISHED"), (again, "RUNNING")])
    tracker.client.delete_run(two)
    (runs_folder / "known-runs.json").unlink()
    assert found("b1") == []
    tracker.client.restore_run(two)  # one that was deleted when its signature was first asked for
    assert found("b1") == [(two, "RUNNING")]
    (experiment,) = tracker.experiments().values()
    late = tracker.client.create_run(experiment, start_time=1, tags={"signature": "b1"}).info.run_id
    assert found("b1") == [(two, "RUNNING")]
    assert [run.run_id for run in tracker.runs_with(["b1"], anew=True)] == [two, late]
    assert found("b1") == [(two, "RUNNING"), (late, "RUNNING")]


def test_what_was_remembered_before_a_merge_is_forgotten(runs_folder: Path, digits: DataSet) -> None:
    """A run that is put into the store with an old start, while another process looks."""
    tracker = tracking.Tracker(runs_folder)
    assert tracker.runs_with(["a1"]) == []
    start(tracker, digits, "b1")  # what the other process has to write down
    path = runs_folder / "known-runs.json"
    other = known_runs.load(path, json.loads(path.read_bytes())["store"], tracking.now_ms())
    (experiment,) = tracker.experiments().values()
    late = tracker.client.create_run(experiment, start_time=1, tags={"signature": "a1"}).info.run_id
    tracker.forget_known()
    other.see([], now=tracking.now_ms())
    other.save(path)
    assert [run.run_id for run in tracker.runs_with(["a1"])] == [late]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"store": 1}', b"\xff", b'{"store": "x", "newest": 1, "recent": 1, "runs": 1}']
)
def test_what_is_remembered_may_be_lost_or_damaged(runs_folder: Path, digits: DataSet, content: bytes) -> None:
    tracker = tracking.Tracker(runs_folder)
    run = start(tracker, digits, "a1")
    assert [one.run_id for one in tracker.runs_with(["a1"])] == [run]
    (runs_folder / "known-runs.json").write_bytes(content)
    assert [one.run_id for one in tracker.runs_with(["a1"])] == [run]


def test_what_another_store_has_is_not_remembered(runs_folder: Path, tmp_path: Path, digits: DataSet) -> None:
    (tmp_path / "b").mkdir()
    tracker, other = tracking.Tracker(runs_folder), tracking.Tracker(tmp_path / "b")
    assert tracker.runs_with(["a1"]) == []
    run = start(other, digits, "a1")
    (runs_folder / "mlflow.db").write_bytes((tmp_path / "b" / "mlflow.db").read_bytes())
    assert [one.run_id for one in tracking.Tracker(runs_folder).runs_with(["a1"])] == [run]


def test_a_store_is_asked_for_a_signature_once(
    tracker: tracking.Tracker, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    search = tracker.client.search_runs

    def counted(experiments: list[str], query: str, *more: object, **named: object) -> object:
        asked.append(query)
        return search(experiments, query, *more, **named)

    monkeypatch.setattr(tracker.client, "search_runs", counted)
    wanted = [f"s{number}" for number in range(20)]
    for signature in wanted[:3]:
        start(tracker, digits, signature)
    asked.clear()
    assert len(tracker.runs_with(wanted)) == 3
    assert len(asked) == len(wanted) + 2
    asked.clear()
    assert len(tracker.runs_with(wanted)) == 3
    assert len(asked) == 2  # what is new, and the runs by their ids
    # more new runs than are read one by one: their signatures are asked for again
    monkeypatch.setattr(tracking, "_MAX_NEW", 2)
    for _ in range(3):
        start(tracker, digits, "s19")
    assert len(tracker.runs_with(wanted)) == 6
    assert len(tracker.runs_with(wanted)) == 6


def test_clocks_that_are_ahead_hide_nothing(tracker: tracking.Tracker, digits: DataSet) -> None:
    experiment = tracker.experiment("small", {"suite": "small"})
    day = 24 * 3600 * 1000
    tags = {"signature": "early"}
    tracker.client.create_run(experiment, start_time=int(time.time() * 1000) + day, tags=tags)
    assert len(tracker.runs_with(["early", "late"])) == 1
    start(tracker, digits, "late")
    assert [run.signature for run in tracker.runs_with(["early", "late"])] == ["early", "late"]


def test_values_of_a_tag_that_of_the_newest_run_first(tracker: tracking.Tracker, digits: DataSet) -> None:
    for signature, teacher in [("1", "a"), ("2", "b"), ("3", "a"), ("4", "")]:
        start(tracker, digits, signature, teacher=teacher)
    assert sorted(tracker.values("teacher")) == ["a", "b"]
    assert tracker.values("teacher", query="tags.signature != '3' and tags.signature != '1'") == ["b"]
    assert tracker.values("teacher", experiments=["0"]) == []


def test_a_failure_may_name_a_file_of_any_bytes(tracker: tracking.Tracker, digits: DataSet) -> None:
    """Found by fuzzing: the store refused the reason, and with it the end of the run."""
    tracker.end(start(tracker, digits, "s1"), "FAILED", failure_reason="cannot decode \udcff.jpg")
    (run,) = tracker.runs_in(list(tracker.experiments().values()))
    assert (run.status, run.tags["failure_reason"]) == ("FAILED", r"cannot decode \udcff.jpg")


def test_images_may_lie_in_a_folder_of_any_bytes(tracker: tracking.Tracker, digits: DataSet) -> None:
    run_id = start(tracker, replace(digits, source="/data/\udcff, official split"), "s1")
    (found,) = tracker.client.get_run(run_id).inputs.dataset_inputs
    assert found.dataset.source == r"/data/\udcff, official split"


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finished(tracker: tracking.Tracker, data: DataSet, signature: str) -> str:
    run_id = start(tracker, data, signature)
    tracker.artifacts(run_id, {"config.json": signature.encode()})
    tracker.end(run_id, "FINISHED")
    return run_id


@pytest.mark.parametrize("location", ["mlflow-artifacts:/3", "s3://bucket/3"])
def test_where_a_servers_artifacts_lie_is_left_alone(
    runs_folder: Path, location: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A look at the database of a server that is down, or runs on another machine."""
    tracker = tracking.Tracker(runs_folder)
    experiment = tracker.client.create_experiment("served", location)
    tracker.client.set_experiment_tag(experiment, "suite", "served")
    again = tracking.Tracker(runs_folder)
    assert again.client.get_experiment(experiment).artifact_location == location
    assert capfd.readouterr().err == ""


def test_commands_that_start_at_the_same_moment_share_a_pairs_run(
    tracker: tracking.Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tracker.experiment("small", {"suite": "small"})
    create, others = tracker.client.create_run, []

    def create_too(*given: Any, **named: Any) -> Any:
        if not others:  # between the other's look and its creation
            others.append(create(*given, **named).info.run_id)
        return create(*given, **named)

    monkeypatch.setattr(tracker.client, "create_run", create_too)
    assert tracker.parent(experiment, "a -> b", {}) == others[0]
    assert len(tracker.client.search_runs([experiment])) == 1
    assert tracker.parent(experiment, "a -> b", {}) == others[0]


def test_a_run_that_was_killed_before_it_had_parameters_gets_them(tracker: tracking.Tracker, digits: DataSet) -> None:
    run_id = start(tracker, digits, "s1")
    whole = tracker.client.get_run(run_id)
    bare = tracker.client.create_run(whole.info.experiment_id).info.run_id
    tracker.complete(bare, make_config("kd"), digits)
    for one in (run_id, bare):
        tracker.complete(one, make_config("kd"), digits)
        found = tracker.client.get_run(one)
        assert found.data.params == whole.data.params
        assert len(found.inputs.dataset_inputs) == 1


def test_a_copied_folder_reads_and_writes_its_own_artifacts(
    runs_folder: Path, tmp_path: Path, digits: DataSet, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = tracking.Tracker(runs_folder)
    tracker.client.create_experiment("another's", "file:///another")
    old = finished(tracker, digits, "old")
    before = content_of(runs_folder)
    copy = tmp_path / "a copy #1"
    shutil.copytree(runs_folder, copy)
    copied = tracking.Tracker(copy)
    assert capfd.readouterr().err == f"{copy} was copied or moved: its runs now name the artifacts that lie in it.\n"
    new = finished(copied, digits, "new")
    copied.artifacts(old, {"late.txt": b"late"})
    assert content_of(runs_folder) == before
    shutil.rmtree(runs_folder)
    for run_id, names in ((old, ["config.json", "late.txt"]), (new, ["config.json"])):
        assert [one.path for one in copied.client.list_artifacts(run_id)] == names  # as MLflow's own pages do
        copied.download(run_id, tmp_path / run_id)
        assert sorted(path.name for path in (tmp_path / run_id).iterdir()) == names
    assert copied.client.get_experiment_by_name("another's").artifact_location == "file:///another"
    assert copied.lost_artifacts() == copied.foreign_artifacts() == []
    tracking.Tracker(copy)
    assert capfd.readouterr().err == ""


def test_a_copy_that_can_only_be_read_reads_its_own_artifacts(
    runs_folder: Path, tmp_path: Path, digits: DataSet, unprivileged: None
) -> None:
    run_id = finished(tracking.Tracker(runs_folder), digits, "old")
    copy = tmp_path / "copy"
    shutil.copytree(runs_folder, copy)
    shutil.rmtree(runs_folder)
    for place in (copy / "mlflow.db", copy):
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        copied = tracking.Tracker(copy)
        copied.download(run_id, tmp_path / "out")
        assert (tmp_path / "out" / "config.json").read_bytes() == b"old"
        assert copied.foreign_artifacts() == [(runs_folder / "artifacts" / "small").as_uri()]
    finally:
        copy.chmod(0o755)


def test_a_store_without_its_artifacts_says_so(runs_folder: Path, digits: DataSet) -> None:
    tracker = tracking.Tracker(runs_folder)
    start(tracker, digits, "not over")
    assert tracker.lost_artifacts() == []
    finished(tracker, digits, "old")
    shutil.rmtree(runs_folder / "artifacts")
    assert tracker.lost_artifacts() == [str(runs_folder / "artifacts" / "small")]


def test_runs_of_an_earlier_version_are_read_in_todays_words(tracker: tracking.Tracker, digits: DataSet) -> None:
    experiment = tracker.experiment("small", {"suite": "small"})
    tags = {
        "signature": "old", "distiller": "kd", "student": "resnet8_half", "seed": "1", "role": "student",
        "version.python": "3.11.7", "version.scikit-learn": "1.9.1",
    }  # fmt: skip
    run_id = tracker.client.create_run(experiment, tags=tags).info.run_id
    tracker.summarise(run_id, {"final/last": 48.0, "final/best_test": 50.0})
    tracker.end(run_id, "FINISHED")
    (run,) = tracker.runs_with(["old"])
    assert run.versions == {"python": "3.11.7", "scikit-learn": "1.9.1"}
    assert run.metrics == {"final/last": 48.0, "final/best_selected_on_test": 50.0}
    row = results.frame([run]).iloc[0]
    assert (row["method"], row["best_test"], row["machine"]) == ("kd", 50.0, None)


def test_an_experiment_has_its_views_and_an_address_that_opens_them(tracker: tracking.Tracker, digits: DataSet) -> None:
    experiment = tracker.experiment("small", {"suite": "small", "mlflow.note.content": "A suite."})
    page = f"http://127.0.0.1:5000/#/experiments/{experiment}/runs?workflowType=machine_learning"
    assert tracker.ui_address(experiment) == (
        f"{page}&searchFilter=tags.role%20%3D%20%27student%27&orderByKey=metrics.%60final/last%60&orderByAsc=false"
    )
    views = saved_views.of_suite(["vanilla", "kd"], 1)
    tracker.client.set_experiment_tag(experiment, "mlflow.sharedViewState.pairs", "as the user left it")
    assert tracker.experiment("small", {"suite": "small", "mlflow.note.content": "A suite. More."}, views) == experiment
    assert tracker.ui_address(experiment) == f"{page}&viewStateShareKey=students"
    assert tracker.ui_address(experiment, charts=True) == f"{page}&viewStateShareKey=charts&compareRunsMode=CHART"
    tags = tracker.client.get_experiment(experiment).tags
    assert (tags["mlflow.sharedViewState.pairs"], tags["mlflow.note.content"]) == (
        "as the user left it",
        "A suite. More.",
    )
    tracker.experiment("small", {"suite": "small", "mlflow.note.content": "Another."})
    assert tracker.client.get_experiment(experiment).tags["mlflow.note.content"] == "A suite. More."
    # what a view names is there: the search finds students alone, and every column is a figure or field of a run
    state = json.loads(json.loads(tags["mlflow.sharedViewState.students"])["state"])
    run_id = start(tracker, digits, "s1")
    figures = dict.fromkeys(("final/last", tracking.BEST_ON_TEST, "test/top5", "test/agreement"), 48.0)
    tracker.summarise(run_id, figures)
    found = tracker.client.search_runs([experiment], state["searchFilter"], order_by=[f"{state['orderByKey']} DESC"])
    assert [run.info.run_id for run in found] == [run_id]
    names = {*(f"metrics.`{name}`" for name in found[0].data.metrics), *(f"params.`{p}`" for p in found[0].data.params)}
    assert {*state["selectedColumns"]} <= names
    of_studies = tracker.experiment("studies small", {"suite": "small"})
    tracker.save_views(of_studies)
    assert tracker.ui_address(of_studies).endswith("viewStateShareKey=trials")


def test_a_database_without_a_server_and_one_of_studies_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@there/name")
    with pytest.raises(UserError, match=r"make server STORE=postgresql://me:\*\*\*@there/name"):
        tracking.Tracker(tmp_path)
    studies = tmp_path / "studies.db"
    with sqlite3.connect(studies) as connection:
        connection.executescript("create table studies (id text); create table trials (id text)")
    connection.close()
    before = studies.read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{studies}")
    with pytest.raises(UserError, match="is Optuna's database, and MLflow cannot share it"):
        tracking.Tracker(tmp_path)
    assert studies.read_bytes() == before
