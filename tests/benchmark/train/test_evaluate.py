"""Test-set figures against plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from benchmark.train.batches import Batch
from benchmark.train.evaluate import NUM_BINS, evaluate

CPU = torch.device("cpu")
NUM_CLASSES = 7


def test_figures_equal_a_plain_count() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(53, NUM_CLASSES, generator=rng) * 2 for _ in range(2))
    target = torch.randint(0, NUM_CLASSES - 1, (53,), generator=rng)  # the last class has no image
    parts = torch.arange(53).split(10)
    # the "images" are indices, so that a lookup is a network
    batches = [Batch({"weak": part}, target[part]) for part in parts]
    ours = evaluate(
        [lambda index: logits[index], lambda index: teacher[index]],
        batches,
        NUM_CLASSES,
        CPU,
        [[teacher[part] for part in parts]] * 2,
    )
    probabilities = logits.softmax(1).tolist()
    right = [
        max(range(NUM_CLASSES), key=row.__getitem__) == int(y) for row, y in zip(probabilities, target, strict=True)
    ]
    assert ours[0].top1 == round(100 * sum(right) / 53, 4)
    in_five = [
        int(y) in sorted(range(NUM_CLASSES), key=lambda k: -row[k])[:5]
        for row, y in zip(probabilities, target, strict=True)
    ]
    assert ours[0].top5 == round(100 * sum(in_five) / 53, 4)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, correct in zip(probabilities, right, strict=True):
        bins.setdefault(min(int(max(row) * NUM_BINS), NUM_BINS - 1), []).append((max(row), correct))
    ece = sum(abs(sum(c for c, _ in found) - sum(r for _, r in found)) for found in bins.values()) / 53
    assert ours[0].ece == pytest.approx(100 * ece, rel=1e-5)
    of_teacher = teacher.softmax(1).tolist()
    kl = (
        sum(
            t * (math.log(t) - math.log(s))
            for ts, ss in zip(of_teacher, probabilities, strict=True)
            for t, s in zip(ts, ss, strict=True)
        )
        / 53
    )
    assert ours[0].kl_teacher == pytest.approx(kl, rel=1e-5)
    assert ours[0].agreement == round(100 * int((logits.argmax(1) == teacher.argmax(1)).sum()) / 53, 4)
    assert (ours[1].agreement, ours[1].kl_teacher) == (100.0, pytest.approx(0.0, abs=1e-6))
    of_two = [r for r, y in zip(right, target, strict=True) if int(y) == 2]
    assert ours[0].per_class[2] == pytest.approx(100 * sum(of_two) / len(of_two))
    assert math.isnan(ours[0].per_class[-1])


def test_without_a_teacher_there_is_no_agreement() -> None:
    logits = torch.eye(3)
    found = evaluate([lambda index: logits[index]], [Batch({"weak": torch.arange(3)}, torch.arange(3))], 3, CPU)[0]
    assert found.metrics("val") == {"val/top1": 100.0, "val/top5": 100.0, "val/ece": pytest.approx(found.ece)}


def test_one_network_that_diverged_spoils_no_other() -> None:
    good, target = torch.eye(3), torch.arange(3)
    bad = torch.full((3, 3), float("nan"))
    batches = [Batch({"weak": target}, target)]
    found = evaluate([lambda index: bad[index], lambda index: good[index]], batches, 3, CPU, [[good], None])
    assert [one.is_finite for one in found] == [False, True]
    assert (found[1].top1, found[1].agreement) == (100.0, None)
