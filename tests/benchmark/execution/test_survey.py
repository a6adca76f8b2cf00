"""What a survey finds, and what it leaves alone."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from benchmark.commands.train import in_other_precision, progress_of
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.execution.options import Options
from benchmark.execution.survey import Entry, Survey
from benchmark.plan import suite
from benchmark.plan.resolve import Plan, make_plan
from benchmark.tracking import Tracker
from benchmark.train import checkpoint, teacher_store
from benchmark.train.lane import Lane, create_network, weights_of
from tests.conftest import SMALL_SUITE


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL_SUITE, "pairs": SMALL_SUITE["pairs"][:1], "seeds": 1}))
    return make_plan(suite.load(str(path)))


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(runs=tmp_path / "runs", data_root=tmp_path)


@pytest.fixture
def tracker(runs_folder: Path) -> Tracker:
    return Tracker(runs_folder)


def survey(plan: Plan, options: Options, data: DataSet, tracker: Tracker | None = None) -> Survey:
    found = Survey(plan, options, data, tracker)
    found.look()
    return found


def entry(found: Survey, method: str) -> Entry:
    return next(one for one in found.entries if one.config.method == method)


def store_teacher(plan: Plan, options: Options, data: DataSet) -> None:
    config = plan.teachers["resnet8"]
    weights = weights_of(create_network("resnet8", data.num_classes, data.image_size, config.seed))
    signature = config.signature(data.digest, None)
    about = {"test_top1": 90.0, "device": "a CPU", "origin": "trained", "signature": signature}
    teacher_store.store(options.teachers, data, "resnet8", weights, **about)


def track(tracker: Tracker, found: Survey, method: str, data: DataSet, **tags: str) -> str:
    one = entry(found, method)
    assert one.signature is not None
    experiment = tracker.experiment("small", {"suite": "small"})
    about = {"role": "student", "name": method, "parent": None}
    return tracker.start(experiment, one.config, one.signature, data, tags=tags, **about)  # type: ignore[arg-type]


def test_runs_wait_for_a_teacher_that_is_not_stored(plan: Plan, options: Options, digits: DataSet) -> None:
    found = survey(plan, options, digits)
    assert {one.config.method: one.state for one in found.entries} == {
        "vanilla": "new",
        "kd": "waiting",
        "sdd_kd": "waiting",
    }
    assert found.teacher_entries["resnet8"].state == "new"
    assert not options.runs.exists()  # looking makes nothing
    store_teacher(plan, options, digits)
    found.look()
    assert {one.state for one in found.entries} == {"new"}
    assert found.teacher_accuracy == {"resnet8": 90.0}


def test_a_checkpoint_is_resumed_and_a_damaged_one_refused(plan: Plan, options: Options, digits: DataSet) -> None:
    one = entry(survey(plan, options, digits), "vanilla")
    assert one.signature is not None
    import torch

    lane = Lane(one.config, digits.num_classes, digits.image_size, torch.device("cpu"))
    lane.epochs_done = 3
    path = options.work(one.signature) / "checkpoint"
    at_its_end = {"signature": one.signature, **lane.state()}
    checkpoint.save(path, {**at_its_end, "steps_done": 1000, "steps_per_epoch": 4000})
    within = entry(survey(plan, options, digits), "vanilla")
    assert (within.state, within.epochs_done, within.steps_done, within.progress) == ("resume", 3, 1000, 3.25)
    assert within.place == "in epoch 4, after 1,000 of 4,000 steps"
    checkpoint.save(path, at_its_end)
    again = entry(survey(plan, options, digits), "vanilla")
    assert (again.state, again.epochs_done, again.place) == ("resume", 3, "after epoch 3")
    checkpoint.previous(path).unlink()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged or truncated"):
        survey(plan, options, digits)


def test_a_run_that_stands_as_running_goes_on_if_it_is_ours(
    plan: Plan, options: Options, digits: DataSet, tracker: Tracker
) -> None:
    store_teacher(plan, options, digits)
    found = survey(plan, options, digits, tracker)
    ours = track(tracker, found, "kd", digits, runs_folder=options.identity())
    track(tracker, found, "sdd_kd", digits, runs_folder="another machine's")
    again = survey(plan, options, digits, tracker)
    assert (entry(again, "kd").state, entry(again, "kd").run_id) == ("new", ours)  # the same run goes on
    assert (entry(again, "sdd_kd").state, entry(again, "sdd_kd").reason) == ("remote", f"on {platform.node()}")


def test_a_run_whose_lock_is_held_is_elsewhere(plan: Plan, options: Options, digits: DataSet, tracker: Tracker) -> None:
    found = survey(plan, options, digits, tracker)
    track(tracker, found, "vanilla", digits, runs_folder=options.identity())
    one = entry(found, "vanilla")
    assert one.signature is not None
    path = options.lock_file(one.signature)
    path.parent.mkdir(parents=True)
    with FileLock(path):
        again = survey(plan, options, digits, tracker)
        assert entry(again, "vanilla").state == "elsewhere"
    assert entry(survey(plan, options, digits, tracker), "vanilla").state == "new"


def test_a_failure_is_final_until_it_is_retried(
    plan: Plan, options: Options, digits: DataSet, tracker: Tracker
) -> None:
    run_id = track(tracker, survey(plan, options, digits, tracker), "vanilla", digits)
    tracker.end(run_id, "FAILED", failure="final", failure_reason="the loss was not finite at epoch 1, step 2")
    failed = entry(survey(plan, options, digits, tracker), "vanilla")
    assert (failed.state, failed.reason) == ("failed", "the loss was not finite at epoch 1, step 2")
    retried = Options(runs=options.runs, data_root=options.data_root, retry_failed=True)
    again = entry(survey(plan, retried, digits, tracker), "vanilla")
    assert (again.state, again.run_id) == ("new", None)  # the failed run stays on record
    tracker.reopen(run_id, {})
    tracker.end(run_id, "KILLED")
    assert entry(survey(plan, options, digits, tracker), "vanilla").state == "new"


def test_a_dropped_run_starts_anew_and_stays_on_record(
    plan: Plan, options: Options, digits: DataSet, tracker: Tracker
) -> None:
    found = survey(plan, options, digits, tracker)
    one = entry(found, "vanilla")
    run_id = track(tracker, found, "vanilla", digits)
    tracker.end(run_id, "KILLED", failure="pruned")
    one.state, one.run_id, one.epochs_done, one.logged, one.reason = "dropped", run_id, 3, {1, 2, 3}, "pruned"
    assert not one.is_open
    found.look()
    assert (one.state, one.run_id, one.epochs_done, one.logged, one.reason) == ("new", None, 0, set(), "")
    again = track(tracker, found, "vanilla", digits)
    tracker.end(again, "KILLED")
    assert entry(survey(plan, options, digits, tracker), "vanilla").run_id == again  # that one was only interrupted


def test_a_finished_run_is_found_in_any_experiment(
    plan: Plan, options: Options, digits: DataSet, tracker: Tracker
) -> None:
    run_id = track(tracker, survey(plan, options, digits, tracker), "vanilla", digits)
    tracker.end(run_id, "FINISHED")
    found = entry(survey(plan, options, digits, tracker), "vanilla")
    assert (found.state, found.run_id) == ("finished", run_id)
    assert [run.run_id for run in tracker.runs_with([str(found.signature), "0" * 16])] == [run_id]


def test_runs_that_are_finished_on_a_device_with_the_other_precision_are_counted(
    plan: Plan, options: Options, tracker: Tracker, digits: DataSet
) -> None:
    """A GPU's teachers compute in bf16 by default, a CPU's in fp32: runs of both are different ones."""
    store_teacher(plan, options, digits)
    on_gpu = make_plan(plan.suite.model_copy(update={"teacher_precision": "bf16"}))
    for method, status in (("kd", "FINISHED"), ("sdd_kd", "FAILED")):
        run_id = track(tracker, survey(on_gpu, options, digits, tracker), method, digits)
        tracker.client.set_terminated(run_id, status)
    here = survey(plan, options, digits, tracker)
    assert (here.num_in_other_precision, here.other_precision) == (1, "bf16")
    there = survey(on_gpu, options, digits, tracker)
    assert entry(there, "kd").state == "finished"
    assert (there.num_in_other_precision, there.other_precision) == (0, "fp32")
    (line,) = in_other_precision(here)
    assert line.startswith(
        "At least 1 of the runs to train are finished with teachers in bf16; here they compute in fp32"
    )
    assert line in progress_of(here).lines
    assert "teacher_precision" not in "".join(progress_of(there).lines)
    for one in here.entries:
        one.state = "finished"  # trained here all the same
    assert in_other_precision(here) == []
