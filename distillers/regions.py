"""Scale decoupling's geometry: pooling a feature map to regions, classifying them, weighing them.

Shape letters: B batch, K classes, R regions, D channels, H W map height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from distillers.base import Grids, Outputs

Complementary = Literal["label", "prediction"]
GlobalFrom = Literal["cell", "logits"]
Weights = Literal["region", "mean", "shuffled"]


def num_regions(scales: tuple[int, ...]) -> int:
    """Number of regions, R = sum of m^2 over the scales m."""
    return sum(side * side for side in scales)


@lru_cache(maxsize=256)
def pooling_matrix(
    height: int, width: int, scales: tuple[int, ...], grids: Grids, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Constant matrix P, (R, H * W), whose product with a flattened map averages it over every region.

    Rows sum to 1. `map`: adaptive average pooling to m x m for each m in `scales`. `from_4x4`: scales that divide 4
    are averaged from the 4 x 4 pooled map, as in SDD's released code; on sides that 4 does not divide (7, 14) the
    cells of uneven size then weigh the same, and the 1 x 1 cell is not the mean of the map.
    """

    def pool(maps: Tensor, side: int) -> Tensor:
        return adaptive_avg_pool2d(maps, side)

    # the cache outlives the caller: an inference tensor made here could not enter a later backward pass
    with torch.inference_mode(False), torch.no_grad():
        pixels = torch.eye(height * width, dtype=torch.float64).view(height * width, 1, height, width)
        cells = pool(pixels, 4)
        maps = [pool(cells if grids == "from_4x4" and 4 % side == 0 else pixels, side) for side in scales]
        return torch.cat([pooled.flatten(1) for pooled in maps], dim=1).T.contiguous().to(device, dtype)


def region_logits(
    map_BDHW: Tensor,
    classify: Callable[[Tensor], Tensor],
    linear_head: bool,
    scales: tuple[int, ...],
    grids: Grids = "map",
) -> Tensor:
    """Local logits of every region, (B, R, K): scale by scale, row-major inside a scale.

    `classify` maps (..., D) to (..., K). An affine `classify` commutes with pooling, since the rows of P sum to 1;
    then the fewer of regions and pixels are classified.
    """
    height, width = map_BDHW.shape[-2:]
    pool = pooling_matrix(height, width, scales, grids, map_BDHW.dtype, map_BDHW.device)
    pixels = map_BDHW.flatten(2).transpose(1, 2)
    if linear_head and height * width <= num_regions(scales):
        logits = classify(pixels)
        return pool.to(logits.dtype) @ logits
    return classify(pool @ pixels)


def with_regions(
    logits_BK: Tensor,
    map_BDHW: Tensor,
    classify: Callable[[Tensor], Tensor],
    linear_head: bool,
    scales: tuple[int, ...],
    grids: Grids = "map",
) -> Outputs:
    """A network's own logits together with those of every region of its map; of none without scales."""
    if not scales:
        return Outputs(logits_BK, logits_BK.new_empty(len(logits_BK), 0, logits_BK.shape[-1]))
    return Outputs(logits_BK, region_logits(map_BDHW, classify, linear_head, scales, grids))


def complementary_regions(
    teacher: Outputs, target_B: Tensor, scales: tuple[int, ...], rule: Complementary, global_from: GlobalFrom
) -> Tensor:
    """Mask of the complementary regions, (B, R) of bool, by the teacher's predictions for region and whole image.

    `label`: exactly one of the two is the target (SDD's code); `prediction`: the two differ (SDD's paper). The whole
    image is the 1 x 1 region (`cell`) or the network's own logits (`logits`, and always when 1 is not
    among the scales).
    """
    local = teacher.regions.argmax(-1)
    # scales ascend: the 1 x 1 region is the first
    whole = local[:, :1] if global_from == "cell" and scales[0] == 1 else teacher.logits.argmax(-1, keepdim=True)
    if rule == "label":
        return (local == target_B[:, None]) ^ (whole == target_B[:, None])
    return local != whole


def region_weights(
    complementary_BR: Tensor, beta: float, dtype: torch.dtype, consistent: float = 1.0, weights: Weights = "region"
) -> Tensor:
    """Region weights, (B, R): `beta` where a region is complementary, `consistent` where it is not.

    `mean`: every region has the batch's mean weight, so that the loss is as large but no region is singled out.
    `shuffled`: every sample keeps its weights, on other regions of it (`shuffled_regions`).
    """
    weight_BR = consistent + (beta - consistent) * complementary_BR.to(dtype)
    if weights == "mean":
        return weight_BR.mean().expand_as(weight_BR)
    if weights == "shuffled":
        return weight_BR.gather(1, shuffled_regions(*weight_BR.shape, weight_BR.device))
    return weight_BR


# no size limit: a CUDA graph keeps reading the tensor that it captured, which must never be freed
@cache
def shuffled_regions(batch: int, regions: int, device: torch.device) -> Tensor:
    """Permutations of 0 .. R - 1, (B, R) of int64; row b depends on b and R only.

    Every step uses the same ones and draws nothing, and a smaller batch has the first rows of a larger one.
    """
    generator = torch.Generator().manual_seed(regions)
    with torch.inference_mode(False):
        rows = [torch.randperm(regions, generator=generator) for _ in range(batch)]
        return torch.stack(rows).to(device)
