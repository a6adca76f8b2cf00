"""The paper's Figures 3 to 5 for one pair: logit correlations, features, and images that SD-KD puts right."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as deserialize

import models
from benchmark import datasets
from benchmark.analysis.methods import pair_title, title_of
from benchmark.analysis.numbers import p_text
from benchmark.analysis.scores import scores
from benchmark.datasets.augment import center_crop
from benchmark.datasets.base import DataSet, stratified
from benchmark.errors import UserError
from benchmark.plan.resolve import Plan
from benchmark.plan.suite import Pair
from benchmark.train import teacher_store
from benchmark.train.batches import eval_batches, splits
from reports import style
from reports.base import Block, Context, Drawing, Text, section

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BASE, DECOUPLED = "kd", "sdd_kd"
#: number of images that a CPU runs through three networks in the time of a report: small images, large images
CPU_IMAGES, CPU_LARGE_IMAGES, SMALL_SIDE = 2000, 200, 64
#: limits of the t-SNE
MAX_CLASSES, MAX_POINTS = 10, 1000
MAX_SHOWN = 12
SEED = 0


class Chosen(NamedTuple):
    """A pair, and a run of each method under the same seed."""

    pair: Pair
    repetition: int
    base_run: str
    decoupled_run: str


@dataclass(frozen=True)
class Seen:
    """The logits and features of a network on the test images."""

    logits_NK: Floats
    features_ND: Floats


@dataclass(frozen=True)
class Changes:
    """Images that only one of two students gets right, as places in the test images."""

    gained: Ints
    lost: Ints

    @property
    def p(self) -> float | None:
        """p-value of McNemar's exact test of as many gained as lost; None without either."""
        num = len(self.gained) + len(self.lost)
        from scipy.stats import binomtest  # takes seconds to import: only reports with such runs wait for it

        return float(binomtest(len(self.gained), num).pvalue) if num else None


@section("Correlations, features and images")
def correlation(context: Context) -> list[Block]:
    """Figures 3 to 5 of the paper, for the first pair with a run of KD and of SD-KD under the same seed, if any."""
    chosen = choose(context.plan, context.frame)
    if chosen is None:
        return []
    try:
        return list(_blocks(context, chosen))
    except UserError as error:
        return [Text(f"Missing for {pair_title(chosen.pair.name)}: {error}")]


def choose(plan: Plan, frame: pd.DataFrame) -> Chosen | None:
    """Choose the first pair with both methods finished under one seed, and the lowest such seed."""
    for pair in plan.pairs:
        base, decoupled = (scores(frame, pair, method) for method in (BASE, DECOUPLED))
        ids = [dict(zip(one.by_seed.index, one.run_ids, strict=True)) for one in (base, decoupled)]
        if shared := sorted(set(ids[0]) & set(ids[1])):
            return Chosen(pair, int(shared[0]), ids[0][shared[0]], ids[1][shared[0]])
    return None


def _blocks(context: Context, chosen: Chosen) -> Sequence[Block]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = datasets.load(context.plan.data, context.data_root, context.runs / "cache")
    networks = {
        "teacher": _teacher(context, chosen, data),
        BASE: _student(context, chosen.pair.student, chosen.base_run, data),
        DECOUPLED: _student(context, chosen.pair.student, chosen.decoupled_run, data),
    }
    all_images = splits(data, context.plan.data).test
    members = _members(data, all_images, device)
    seen = {name: see(network, data, members, device) for name, network in networks.items()}
    targets = data.test.targets[members].numpy()
    scope = f"{pair_title(chosen.pair.name)}, one run of each method, seed {chosen.repetition}, on " + (
        f"all {len(members)} test images"
        if len(members) == len(all_images)
        else f"{len(members)} of {len(all_images)} test images, drawn by class"
    )
    apart = {
        name: correlation_difference(seen["teacher"].logits_NK, seen[name].logits_NK) for name in (BASE, DECOUPLED)
    }
    changed = changes(seen[BASE].logits_NK, seen[DECOUPLED].logits_NK, targets)
    means = {name: mean_difference(matrix) for name, matrix in apart.items()}
    blocks: list[Block] = [
        Drawing(
            "logit_correlation",
            correlation_figure(apart),
            f"Correlation of class logits, student less teacher (the paper's Figure 3): {scope}. Mean absolute"
            f" difference off the diagonal: KD {means[BASE]:.3f}, SD-KD {means[DECOUPLED]:.3f}; of one run of each, no"
            " evidence by itself.",
        )
    ]
    places = tsne_places(targets)
    if len(places) >= 3:
        named = sorted(set(targets[places].tolist()))
        at = {name: tsne(seen[name].features_ND[places]) for name in (BASE, DECOUPLED)}
        blocks.append(
            Drawing(
                "features",
                tsne_figure(at, targets[places], [data.classes[label] for label in named]),
                f"t-SNE of features (the paper's Figure 4), {len(places)} test images of {len(named)} classes, seeded:"
                f" {pair_title(chosen.pair.name)}, seed {chosen.repetition}. Distances between clusters and their"
                " sizes mean nothing in a t-SNE.",
            )
        )
    blocks.append(Text(changes_text(changed, scope)))
    if len(changed.gained):
        blocks.append(_images(data, members, targets, seen, changed.gained, scope))
    return blocks


def _teacher(context: Context, chosen: Chosen, data: DataSet) -> models.Network:
    manifest = context.teachers.get(chosen.pair.teacher)
    if manifest is None:
        raise UserError(f"the teacher {chosen.pair.teacher} is not stored under {context.runs / 'teachers'}")
    return teacher_store.load_network(manifest.file(teacher_store.folder_of(context.runs / "teachers", data)), data)


def _student(context: Context, model: str, run_id: str, data: DataSet) -> models.Network:
    if context.tracker is None:
        raise UserError(f"the weights of run {run_id} cannot be read without its tracking store")
    with tempfile.TemporaryDirectory() as folder:
        with context.tracker.named_errors():
            context.tracker.download(run_id, Path(folder))
        file = Path(folder) / "student.safetensors"
        if not file.exists():
            raise UserError(f"run {run_id} has no artifact student.safetensors")
        content = file.read_bytes()
    try:
        weights = deserialize(content)
    except SafetensorError as error:
        raise UserError(f"student.safetensors of run {run_id} does not fit {model}: {error}") from error
    return teacher_store.network_with(model, weights, data, f"student.safetensors of run {run_id}")


def _members(data: DataSet, members: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Select the test images to look at: all on a GPU, at most as many as a CPU can handle."""
    limit = CPU_IMAGES if data.image_size <= SMALL_SIDE else CPU_LARGE_IMAGES
    if device.type != "cpu" or len(members) <= limit:
        return members
    return members[stratified(data.test.targets[members], limit, "report")]


@torch.no_grad()
def see(network: models.Network, data: DataSet, members: torch.Tensor, device: torch.device) -> Seen:
    """Compute a network's logits and pooled features of the test view of images."""
    placed = network.to(device).eval()
    logits, features = [], []
    for batch in eval_batches(data, data.test, members, device):
        pooled = placed.forward_features(batch.views["weak"]).mean(dim=(2, 3))
        features.append(pooled.double().cpu())
        logits.append(placed.classify(pooled).double().cpu())
    return Seen(torch.cat(logits).numpy(), torch.cat(features).numpy())


def correlation_difference(teacher_NK: Floats, student_NK: Floats) -> Floats:
    """The student's correlations between classes less the teacher's, (K, K); NaN for a constant logit."""
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.corrcoef(student_NK, rowvar=False) - np.corrcoef(teacher_NK, rowvar=False)
    return np.asarray(difference, dtype=float)


def mean_difference(difference_KK: Floats) -> float:
    """Mean absolute difference off the diagonal, which is 0 by definition; NaN without a finite difference."""
    off = np.abs(difference_KK[~np.eye(len(difference_KK), dtype=bool)])
    known = off[np.isfinite(off)]
    return float(known.mean()) if len(known) else float("nan")


def changes(base_NK: Floats, decoupled_NK: Floats, targets_N: Ints) -> Changes:
    """Find the images that are right under the second and wrong under the first, and the reverse."""
    base, decoupled = (logits.argmax(axis=1) == targets_N for logits in (base_NK, decoupled_NK))
    return Changes(np.flatnonzero(decoupled & ~base), np.flatnonzero(base & ~decoupled))


def changes_text(changed: Changes, scope: str) -> str:
    """State both counts: one count alone would flatter."""
    text = (
        f"{scope}: {len(changed.gained)} are right under SD-KD and wrong under KD, {len(changed.lost)} are right under"
        " KD and wrong under SD-KD"
    )
    if changed.p is None:
        return f"{text}."
    return (
        f"{text} (McNemar's exact test, p {p_text(changed.p)}). It is about these two trained networks, not the"
        " methods: two seeds of one method differ on images as well."
    )


def tsne_places(targets_N: Ints) -> Ints:
    """Select the images to lay out: equally many of each of the first classes."""
    labels = sorted(set(targets_N.tolist()))[:MAX_CLASSES]
    per_class = MAX_POINTS // max(1, len(labels))
    places = [np.flatnonzero(targets_N == label)[:per_class] for label in labels]
    return np.sort(np.concatenate(places)) if places else np.zeros(0, dtype=np.int64)


def tsne(features_ND: Floats) -> Floats:
    """Lay out features in two dimensions by t-SNE: the same for the same features."""
    from sklearn.manifold import TSNE  # takes seconds to import: only reports with runs wait for it

    num = len(features_ND)
    start = features_ND[:, :2] if min(features_ND.shape) < 2 else None
    made = TSNE(
        perplexity=min(30.0, (num - 1) / 3),
        init="pca" if start is None else "random",
        random_state=SEED,
        n_jobs=1,
    )
    laid: Floats = np.asarray(made.fit_transform(features_ND), dtype=float)
    return laid


def correlation_figure(apart: dict[str, Floats]) -> Figure:
    """Draw a heat map per method, on one scale."""
    known = np.concatenate([np.abs(matrix[np.isfinite(matrix)]) for matrix in apart.values()])
    limit = float(known.max()) if len(known) and known.max() > 0 else 1.0
    colours = matplotlib.colormaps["PuOr"].with_extremes(bad="#E3E3E3")
    with style.style():
        made = style.canvas(style.WIDTH, 3.1)
        panels = made.subplots(1, len(apart))
        for axes, (method, matrix) in zip(panels, apart.items(), strict=True):
            image = axes.imshow(np.ma.masked_invalid(matrix), cmap=colours, vmin=-limit, vmax=limit)
            title = f"{title_of(method)}: mean |difference| {mean_difference(matrix):.3f}"
            axes.set(xlabel="class", ylabel="class", title=title)
            style.whole_numbers(axes.xaxis)
            style.whole_numbers(axes.yaxis)
            axes.grid(visible=False)
        made.colorbar(image, ax=list(panels), label="correlation, student − teacher", shrink=0.85)
    return made


def tsne_figure(at: dict[str, Floats], targets_N: Ints, classes: Sequence[str]) -> Figure:
    """Draw the laid-out features of each method, coloured and marked by class."""
    colours = matplotlib.colormaps["tab10"]
    labels = sorted(set(targets_N.tolist()))
    with style.style():
        made = style.canvas(style.WIDTH, 3.6)
        panels = made.subplots(1, len(at))
        for axes, (method, points) in zip(panels, at.items(), strict=True):
            for place, label in enumerate(labels):
                mine = points[targets_N == label]
                look: dict[str, Any] = {"color": colours(place), "marker": "os^DvPX*<>"[place], "linewidths": 0}
                axes.scatter(mine[:, 0], mine[:, 1], s=9, alpha=0.8, label=_short(classes[place]), **look)
            axes.set(xlabel="t-SNE 1", ylabel="t-SNE 2", title=title_of(method))
            axes.set_xticks([])
            axes.set_yticks([])
        handles, names = panels[0].get_legend_handles_labels()
        made.legend(handles, names, loc="outside lower center", ncols=5, markerscale=1.6)
    return made


def _images(
    data: DataSet, members: torch.Tensor, targets: Ints, seen: dict[str, Seen], gained: Ints, scope: str
) -> Drawing:
    shown = gained[:MAX_SHOWN]
    order = [members[torch.from_numpy(shown)]]
    pixels = next(iter(data.test.batches(order, torch.device("cpu"))))
    said = seen[BASE].logits_NK.argmax(axis=1)
    words = [(data.classes[int(targets[place])], data.classes[int(said[place])]) for place in shown]
    views = center_crop(pixels, data.image_size).permute(0, 2, 3, 1).numpy()
    return Drawing(
        "images",
        images_figure(views, words),
        f"The first {len(shown)} of {len(gained)} images that are right under SD-KD and wrong under KD (the paper's"
        f" Figure 5): {scope}. Above each: its class, and the prediction of KD.",
    )


def images_figure(views_NHWC: NDArray[np.uint8], words: Sequence[tuple[str, str]]) -> Figure:
    """Draw the images in rows of six, with their class and the first student's prediction."""
    columns = 6
    rows = -(-len(words) // columns)
    with style.style():
        made = style.canvas(style.WIDTH, 1.55 * rows)
        grid = made.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.set_axis_off()
        for axes, view, (true, said) in zip(grid.flat, views_NHWC, words, strict=False):
            axes.imshow(view, interpolation="nearest")
            axes.set_title(f"{_short(true)}\nKD: {_short(said)}", fontsize=7, loc="center")
    return made


def _short(name: str, length: int = 16) -> str:
    """Shorten a class name to fit above an image; `$` would be read as mathematics."""
    plain = name.replace("$", r"\$")
    return plain if len(name) <= length else f"{name[: length - 1].rstrip()}…".replace("$", r"\$")
