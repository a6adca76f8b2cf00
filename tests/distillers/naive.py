"""The same losses a second time, in plain Python: lists, loops and probabilities, straight from the definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, log
from statistics import median
from typing import Any

import torch

from distillers.regions import shuffled_regions

Row = Sequence[float]
Loss = Callable[[Row, Row, int], float]


def softmax(z: Row, temperature: float = 1.0) -> list[float]:
    top = max(z)
    powers = [exp((x - top) / temperature) for x in z]
    total = sum(powers)
    return [power / total for power in powers]


def divergence(p: Row, q: Row) -> float:
    return sum(a * log(a / b) for a, b in zip(p, q, strict=True))


def others(z: Row, target: int) -> list[float]:
    return [x for k, x in enumerate(z) if k != target]


def argmax(z: Row) -> int:
    return list(z).index(max(z))


def cross_entropy(z: Row, target: int) -> float:
    return -log(softmax(z)[target])


def kd(s: Row, t: Row, target: int, temperature: float) -> float:
    return temperature**2 * divergence(softmax(t, temperature), softmax(s, temperature))


def dkd(s: Row, t: Row, target: int, alpha: float, beta: float, temperature: float) -> float:
    ps, pt = softmax(s, temperature)[target], softmax(t, temperature)[target]
    tckd = divergence([pt, 1 - pt], [ps, 1 - ps])
    nckd = divergence(softmax(others(t, target), temperature), softmax(others(s, target), temperature))
    return temperature**2 * (alpha * tckd + beta * nckd)


def nkd(s: Row, t: Row, target: int, temperature: float, gamma: float, keep_target: bool) -> float:
    loss = softmax(t)[target] * cross_entropy(s, target)
    if not keep_target:
        s, t = others(s, target), others(t, target)
    for ps, pt in zip(softmax(s, temperature), softmax(t, temperature), strict=True):
        loss -= gamma * temperature**2 * pt * log(ps)
    return loss


LOSSES: dict[str, Callable[[Mapping[str, Any]], Loss]] = {
    "kd": lambda p: lambda s, t, y: kd(s, t, y, p["temperature"]),
    "dkd": lambda p: lambda s, t, y: dkd(s, t, y, p["alpha"], p["beta"], p["temperature"]),
    "nkd": lambda p: lambda s, t, y: nkd(s, t, y, p["temperature"], p["gamma"], p["keep_target"]),
}


def is_complementary(region: Row, whole: Row, target: int, rule: str) -> bool:
    here, there = argmax(region), argmax(whole)
    if rule == "prediction":
        return here != there
    if there == target:
        return here != target
    return here == target


def region_weights(teacher: Any, target: list[int], sdd: Mapping[str, Any]) -> list[list[float]]:
    """What every region of every sample weighs."""
    weights = []
    for logits, regions, y in zip(teacher.logits, teacher.regions, target, strict=True):
        whole = regions[0] if 1 in sdd["scales"] and sdd["global_from"] == "cell" else logits
        found = [is_complementary(t, whole, y, sdd["complementary"]) for t in regions]
        weights.append([sdd["beta"] if yes else sdd["consistent"] for yes in found])
    if sdd["weights"] == "mean":
        mean = sum(map(sum, weights)) / sum(map(len, weights))
        return [[mean] * len(row) for row in weights]
    if sdd["weights"] == "shuffled":
        orders = shuffled_regions(len(weights), len(weights[0]), torch.device("cpu")).tolist()
        return [[row[region] for region in order] for row, order in zip(weights, orders, strict=True)]
    return weights


def of_sample(
    loss: Loss, student: Any, teacher: Any, b: int, target: list[int], sdd: Mapping[str, Any] | None
) -> float:
    """One sample's loss: on the logits, or on its regions when there is more to decouple than the whole image."""
    y = target[b]
    if sdd is None or list(sdd["scales"]) == [1]:
        return loss(student.logits[b], teacher.logits[b], y)
    total = 0.0
    weights = region_weights(teacher, target, sdd)[b]
    for weight, s, t in zip(weights, student.regions[b], teacher.regions[b], strict=True):
        total += weight * loss(s, t, y)
    return total / len(student.regions[b]) if sdd["reduction"] == "mean" else total


def ramp(epoch: int, epochs: int) -> float:
    return epoch / epochs if epoch < epochs else 1.0


def sample_method(name: str, student: Any, teacher: Any, target: list[int], epoch: int, p: Any) -> dict[str, float]:
    base = name.removeprefix("sdd_")
    own, loss = p[base], LOSSES[base](p[base])
    num = len(target)
    s, t = student["weak"], teacher["weak"]
    ce = sum(cross_entropy(s.logits[b], y) for b, y in enumerate(target)) / num
    distilled = sum(of_sample(loss, s, t, b, target, p.get("sdd")) for b in range(num)) / num
    return {
        "ce": own["ce_weight"] * ce,
        "kd": own["weight"] * ramp(epoch, own["warmup_epochs"]) * distilled,
    }


def gram_rows(s: Sequence[Row], t: Sequence[Row], temperature: float, over_classes: bool) -> list[float]:
    """For each class (or sample): the squared differences of its inner products with all classes (or samples)."""
    ps, pt = ([softmax(z, temperature) for z in logits] for logits in (s, t))
    if over_classes:
        ps, pt = ([list(column) for column in zip(*rows, strict=True)] for rows in (ps, pt))

    def dot(a: Row, b: Row) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    n = range(len(ps))
    return [sum((dot(pt[i], pt[j]) - dot(ps[i], ps[j])) ** 2 for j in n) for i in n]


def masked_mean(values: list[float], confidence: list[float], masks: str) -> float:
    chosen = [c <= median(confidence) for c in confidence]
    if masks == "fraction":
        return sum(values) / len(values) * (sum(chosen) / len(chosen))
    return sum(v for v, keep in zip(values, chosen, strict=True) if keep) / len(values)


def mlkd(name: str, student: Any, teacher: Any, target: list[int], epoch: int, p: Any) -> dict[str, float]:
    own, sdd, num = p["mlkd"], p.get("sdd"), len(target)
    sw, ss, tw, ts = student["weak"], student["strong"], teacher["weak"], teacher["strong"]
    probabilities = [softmax(z) for z in tw.logits]
    by_sample = [max(row) for row in probabilities]
    by_class = [sum(column) for column in zip(*probabilities, strict=True)]
    terms = {"ce": 0.0, "kd": 0.0, "class": 0.0, "batch": 0.0}
    for b, y in enumerate(target):
        terms["ce"] += own["ce_weight"] * (cross_entropy(sw.logits[b], y) + cross_entropy(ss.logits[b], y)) / num
    for place, T in enumerate(own["temperatures"]):

        def loss(s: Row, t: Row, y: int, T: float = T) -> float:
            return kd(s, t, y, T)

        weak = [of_sample(loss, sw, tw, b, target, sdd) for b in range(num)]
        swapped = T in own["weak_logits_at"] and T not in own["temperatures"][place + 1 :]
        s2, t2 = (sw, tw) if swapped else (ss, ts)
        strong = [of_sample(loss, s2, t2, b, target, sdd) for b in range(num)]
        terms["kd"] += masked_mean(weak, by_sample, own["masks"]) + sum(strong) / num
        terms["class"] += masked_mean(gram_rows(sw.logits, tw.logits, T, True), by_class, own["masks"])
        terms["batch"] += masked_mean(gram_rows(sw.logits, tw.logits, T, False), by_sample, own["masks"])
        if own["strong_relations"]:
            rows = gram_rows(s2.logits, t2.logits, T, True)
            terms["class"] += sum(rows) / len(rows)
            terms["batch"] += sum(gram_rows(ss.logits, ts.logits, T, False)) / num
    for term in ("kd", "class", "batch"):
        terms[term] *= own["weight"] * ramp(epoch, own["warmup_epochs"])
    return terms


def losses(name: str, student: Any, teacher: Any, target: list[int], epoch: int, p: Any) -> dict[str, float]:
    """Every term of a built-in method with parameters p; Outputs hold nested lists."""
    method = mlkd if name.endswith("mlkd") else sample_method
    return method(name, student, teacher, target, epoch, p)
