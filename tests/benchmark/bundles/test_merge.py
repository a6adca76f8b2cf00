"""What comes home: the same runs to the bit, once, whatever is here already and whenever it is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from benchmark import files
from benchmark.bundles import merge
from benchmark.bundles.content import RunRecord
from benchmark.bundles.merge import Local, decided
from benchmark.execution import pair_means
from benchmark.tracking import Tracked, Tracker
from benchmark.train import checkpoint, teacher_store
from benchmark.train.batches import splits
from tests.benchmark.bundles.conftest import Home
from tests.benchmark.bundles.stores import FAILED, Store, fates, opened

NewStore = Callable[[str], Store]
pytestmark = pytest.mark.xdist_group("bundles")  # one `home` for all


def test_runs_teachers_and_checkpoints_are_as_they_were(home: Home, new_store: NewStore) -> None:
    there = new_store("b")
    # the signatures have been asked for before
    assert there.tracker.runs_with(home.store.survey(2).signatures()) == []
    outcomes = there.merge(*home.packed.pieces)
    assert {(one.kind, one.fate) for one in outcomes} == {
        ("finished run", "taken"), ("failed run", "taken"), ("open run", "taken"), ("checkpoint", "taken"),
        ("teacher", "taken"),
    }  # fmt: skip
    here, copied = home.store.described(), there.described()
    for (_, signature, name), run in copied["runs"].items():
        original = here["runs"]["small", signature, name]
        if run["tags"].get("failure") == "retry":
            assert run["metrics"] == [point for point in original["metrics"] if point.step == 1]
            original = {**original, "metrics": run["metrics"]}
        assert run == original
    assert copied["runs"].keys() == here["runs"].keys()
    assert copied["experiments"] == here["experiments"]
    assert {run["tags"].get("host") for run in copied["runs"].values()} >= {"node7"}
    # commands see them at once, though they started long ago, and so does their reader of weights
    survey = there.survey(2)
    assert [entry.state for entry in survey.entries] == [entry.state for entry in home.store.survey(2).entries]
    assert [entry.state for entry in survey.entries] == ["finished", "resume"]
    ((_, manifest),) = teacher_store.manifests(there.options.teachers)
    (own,) = there.tracker.runs_with([str(manifest.signature)])
    assert manifest.mlflow_run == own.run_id
    assert there.tracker.unended(there.options.identity()) == []


def test_a_resumed_run_ends_with_the_bits_of_one_that_was_not_interrupted(home: Home, new_store: NewStore) -> None:
    there = new_store("b")
    there.merge(*home.packed.pieces)
    (open_run,) = there.tracker.runs_with([str(there.survey(2).entries[1].signature)])
    there.tracker.tag(open_run.run_id, {"machine": "another"})
    there.train(2)
    one, other = there.described()["runs"], home.whole.described()["runs"]
    assert one.keys() == other.keys()
    for key, run in one.items():
        assert run["status"] == ("FAILED" if key[1] == FAILED else "FINISHED")
        if key[1] is None:
            assert run["metrics"] == other[key]["metrics"]  # means of the pairs
            continue
        weights = [stored[key]["artifacts"].get("student.safetensors") for stored in (one, other)]
        assert weights[0] == weights[1]
        timed = ("time/", "final/train_seconds")
        values = [
            [
                (point.name, point.step, point.value)
                for point in stored[key]["metrics"]
                if not point.name.startswith(timed)
            ]
            for stored in (one, other)
        ]
        assert values[0] == values[1]
    joined = there.tracker.tags(open_run.run_id)["machine"]
    assert joined.startswith("another + ")


def test_again_it_changes_nothing(home: Home, new_store: NewStore) -> None:
    there = new_store("b")
    there.merge(*home.packed.pieces)
    before = there.everything()
    outcomes = there.merge(*reversed(home.packed.pieces))
    assert {one.fate for one in outcomes} == {"here already"}
    assert there.everything() == before


class Killed(BaseException):
    """Ends a merge as a kill would."""


#: every call that a merge changes something by
CALLS = [
    (Tracker, "experiment"), (Tracker, "begin_copy"), (Tracker, "fill_copy"), (Tracker, "artifacts"),
    (Tracker, "parent"), (files, "write"), (Tracker, "end_copy"), (teacher_store, "put"), (pair_means, "update"),
    (Tracker, "forget_known"), (Tracker, "forget_copy"), (merge, "end_parents"),
]  # fmt: skip


def dying(call: Callable[..., object], is_done: bool) -> Callable[..., None]:
    """A call that ends the merge, once it is done or before."""

    def killed(*arguments: Any, **named: Any) -> None:
        if is_done:
            call(*arguments, **named)
        raise Killed

    return killed


def test_a_merge_that_is_killed_at_every_call_is_completed_by_the_last(
    home: Home, new_store: NewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = new_store("b")
    there.options.identity()
    for owner, name in CALLS:
        for is_done in (False, True):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, dying(getattr(owner, name), is_done))
                with pytest.raises(Killed):
                    there.merge(*home.packed.pieces)
    there.merge(*home.packed.pieces)
    undisturbed = new_store("c")
    undisturbed.merge(*home.packed.pieces)
    assert there.described() == undisturbed.described()
    assert [entry.state for entry in there.survey(2).entries] == ["finished", "resume"]
    before = there.everything()
    there.merge(*home.packed.pieces)
    assert there.everything() == before


def test_a_finished_run_takes_the_place_of_an_open_one(home: Home, new_store: NewStore) -> None:
    there = new_store("b")
    there.train(until=1)
    (entry,) = there.survey().entries
    assert entry.state == "resume"
    outcomes = there.merge(*home.packed.pieces)
    assert len(fates(outcomes)["finished run", "taken"]) == 1
    assert fates(outcomes)["finished run", "here already"] == ["teacher resnet8"]
    assert fates(outcomes)["teacher", "here already"] == ["teacher resnet8 on digits"]
    (run,) = there.tracker.runs_with([str(entry.signature)])
    assert run.status == "FINISHED" and run.run_id != entry.run_id and run.tags["host"] == "node7"
    assert not there.options.work(run.signature).exists()


def test_the_checkpoint_that_is_further_on_wins(home: Home, new_store: NewStore) -> None:
    there = new_store("b")
    there.merge(*home.packed.pieces)
    there.train(2, until=2)
    before = there.everything()
    outcomes = there.merge(*home.packed.pieces)
    assert {(one.fate, one.reason) for one in outcomes if one.kind in ("open run", "checkpoint")} == {
        ("here already", "further on here, after epoch 2; the bundle's is after epoch 1")
    }
    assert there.everything() == before
    # and the other way round: what is further on there comes home
    packed = there.pack("back")
    back = new_store("c")
    back.merge(*home.packed.pieces)
    entry = back.survey(2).entries[1]
    assert {one.fate for one in back.merge(*packed.pieces) if one.kind in ("open run", "checkpoint")} == {"taken"}
    again = back.survey(2).entries[1]
    assert (entry.epochs_done, again.epochs_done, again.signature) == (1, 2, entry.signature)
    (run,) = back.tracker.runs_with([str(entry.signature)], anew=True)
    assert run.run_id == again.run_id != entry.run_id
    assert back.tracker.epochs_logged(run.run_id) == {1, 2}


def test_a_run_that_is_trained_here_now_is_left_to_its_process(home: Home, new_store: NewStore) -> None:
    there = new_store("b")
    entry = home.store.survey().entries[0]
    lock = FileLock(there.options.lock_file(str(entry.signature)))
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    with lock:
        outcomes = there.merge(*home.packed.pieces)
        (held,) = [one for one in outcomes if one.is_held]
        assert (held.fate, held.reason) == ("left out", "another process trains it now: merge again when it has ended")
        assert there.tracker.runs_with([str(entry.signature)], anew=True) == []
    assert [one.label for one in there.merge(*home.packed.pieces) if one.fate == "taken"] == [held.label]


def test_another_teacher_of_the_same_recipe_stays(home: Home, new_store: NewStore) -> None:
    rounded = home.store.pack("rounded", fp16=True)
    assert rounded.contents.weights == "fp16"
    there = new_store("b")
    there.merge(*home.packed.pieces)
    ((own, manifest),) = teacher_store.manifests(there.options.teachers)
    outcomes = there.merge(*rounded.pieces)
    (teacher,) = [one for one in outcomes if one.kind == "teacher"]
    assert teacher.fate == "left out"
    assert manifest.checksum[:12] in teacher.reason and "runs of their own" in teacher.reason
    assert [known for _, known in teacher_store.manifests(there.options.teachers)] == [manifest]
    other = new_store("c")
    other.merge(*rounded.pieces)
    ((folder, known),) = teacher_store.manifests(other.options.teachers)
    assert known.rounded_from == manifest.checksum and known.best_test_top1 is None
    network = teacher_store.load_network(known.file(folder), home.store.data)
    members = splits(home.store.data, home.store.plan().data).test  # those that the teacher was measured on
    assert len(members) == 40
    measured = [
        teacher_store.measure(one, home.store.data, torch.device("cpu"), members)
        for one in (network, teacher_store.load_network(manifest.file(own), home.store.data))
    ]
    assert measured == [known.test_top1, manifest.test_top1]
    # students of the rounded teacher are other runs, those of the other are taken as they are
    assert [entry.state for entry in other.survey().entries] == ["new"]
    assert len(other.tracker.runs_in(list(other.tracker.experiments().values()))) == 4


def run(status: str, **tags: str) -> Tracked:
    return Tracked("id", "1", "s", status, tags.get("failure") == "final", tags, {}, {}, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "progress", "local", "fate"),
    [
        ("FINISHED", None, Local([], None), "taken"),
        ("FINISHED", None, Local([run("KILLED")], (2, 0)), "taken"),
        ("FINISHED", None, Local([run("FAILED", failure="final")], None), "taken"),
        ("FINISHED", None, Local([run("FAILED"), run("FINISHED")], None), "here already"),
        ("FINISHED", None, Local([run("RUNNING")], None, "node3"), "left out"),
        ("FAILED", None, Local([], None), "taken"),
        ("FAILED", None, Local([run("FAILED", failure="final")], None), "here already"),
        ("FAILED", None, Local([run("KILLED")], (1, 0)), "left out"),
        ("FAILED", None, Local([], (1, 0)), "left out"),
        ("KILLED", (2, 0), Local([], None), "taken"),
        ("KILLED", (2, 0), Local([run("KILLED")], (1, 99)), "taken"),
        ("KILLED", (2, 7), Local([run("KILLED")], (2, 6)), "taken"),
        ("KILLED", (2, 7), Local([run("KILLED")], (2, 7)), "here already"),
        ("KILLED", (2, 7), Local([], (2, 7)), "taken"),  # its record is missing
        ("KILLED", (2, 7), Local([run("KILLED")], (2, 8)), "here already"),
        ("KILLED", (2, 0), Local([run("FAILED", failure="final")], None), "left out"),
        ("KILLED", (2, 0), Local([run("FINISHED")], None), "here already"),
        ("KILLED", (2, 0), Local([run("KILLED", failure="pruned")], None), "taken"),
    ],
)  # fmt: skip
def test_who_wins(status: str, progress: tuple[int, int] | None, local: Local, fate: str, home: Home) -> None:
    record = next(iter(home_records(home))).model_copy(update={"status": status})
    assert decided(record, progress, local)[0] == fate


def home_records(home: Home) -> list[RunRecord]:
    (bundle,) = opened(*home.packed.pieces)
    bundle.close()
    return list(bundle.runs.values())


def test_a_damaged_checkpoint_here_is_named_and_stays(home: Home, new_store: NewStore) -> None:
    there = new_store("b")
    entry = next(entry for entry in home.store.survey(2).entries if entry.state == "resume")
    path = there.options.work(str(entry.signature)) / "checkpoint"
    files.write(path, b"damaged")
    with pytest.raises(ValueError, match=f"checkpoint {path}"):
        there.merge(*home.packed.pieces)
    assert path.read_bytes() == b"damaged"
    path.unlink()
    fates = {one.fate for one in there.merge(*home.packed.pieces)}
    # what came before it in the bundle, whose order depends on the teacher's weights, is here already
    assert fates <= {"taken", "here already"} and "taken" in fates
    assert checkpoint.load(path)["signature"] == entry.signature
