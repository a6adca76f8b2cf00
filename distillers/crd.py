"""CRD: Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020 (arXiv 1910.10699)."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from distillers.base import Extras, Facts, NonNegative, Outputs, Positive, Sees, UnfitPair
from distillers.feature_loss import FeatureLoss, embedding_of, embedding_size, feature_loss
from distillers.hashing import END, hashed
from distillers.network import Network

_EPS = 1e-7
#: a memory is multiplied as a whole unless it has more rows than so many times those that an image is compared with:
#: gathering a row costs far more than a product with it
_WHOLE_MEMORY_UP_TO = 16


class Negatives(nn.Module):
    """A draw of images of other classes, without replacement, as a function of (salt, epoch, image).

    All images that are trained on lie in one shuffled order, fixed for the training. Without those of its own class
    they are a list, of which an image takes every s-th, from place o on and past the end from the start again; o and s
    are hashed from (salt, epoch, image), and s has no divisor in common with the list's length, so that none comes
    twice. Every other image is drawn equally often; which ones come together is less free than in a draw of each. The
    released code draws each batch from numpy's stream, with the same chances.
    """

    salt: Tensor
    order_N: Tensor
    before_CM: Tensor
    num_others_C: Tensor
    strides: Tensor

    def __init__(self, targets_N: Tensor, num_classes: int, most: int) -> None:
        """Take the class of every image, -1 for those that are left out, and how many to draw for an image at most.

        Raises UnfitPair when all images are of one class.
        """
        super().__init__()
        salt = torch.randint(END, ())
        trained = (targets_N >= 0).nonzero()[:, 0]
        order_N = trained[torch.randperm(len(trained))]
        places = [(targets_N[order_N] == label).nonzero()[:, 0] for label in range(num_classes)]
        num_others_C = torch.tensor([len(order_N) - len(own) for own in places])
        #: how many are drawn for every image: all classes have so many others
        self.count = min(most, int(num_others_C.min()))
        if self.count == 0:
            raise UnfitPair("negatives are images of other classes, and all images are of one")
        strides = torch.arange(1, len(order_N))
        for length in torch.unique(num_others_C):
            strides = strides[torch.gcd(strides, length) == 1]
        self.register_buffer("salt", salt)
        # the rest follows from the targets and the seed, and is not saved
        self.register_buffer("order_N", order_N, persistent=False)
        #: for each image of a class, in the order, how many of other classes lie before it; filled up with the order's
        #: length
        before = [own - torch.arange(len(own)) for own in places]
        filled = pad_sequence(before, batch_first=True, padding_value=len(order_N))
        self.register_buffer("before_CM", filled, persistent=False)
        self.register_buffer("num_others_C", num_others_C, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def forward(self, index_B: Tensor, target_B: Tensor, epoch: int | Tensor) -> Tensor:
        """Draw the numbers of the negatives of every image, (B, count)."""
        length_B1 = self.num_others_C[target_B][:, None]
        start_B1 = hashed(self.salt, epoch, index_B, 0)[:, None]
        stride_B1 = self.strides[hashed(self.salt, epoch, index_B, 1) % len(self.strides)][:, None]
        step_K = torch.arange(self.count, device=index_B.device)
        place_BK = (start_B1 + stride_B1 * step_K) % length_B1
        # from a place among the others to the place in the order: past the images of the own class that come before
        return self.order_N[place_BK + torch.searchsorted(self.before_CM[target_B], place_BK, right=True)]


class Side(nn.Module):
    """One network's embedding, its memory of every image, and the constant that its scores are divided by."""

    memory_ND: Tensor
    constant: Tensor

    def __init__(self, width: int, dimension: int, num_images: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dimension)
        span = math.sqrt(3 / dimension)
        self.register_buffer("memory_ND", torch.empty(num_images, dimension).uniform_(-span, span))
        #: -1 before the first batch sets it
        self.register_buffer("constant", torch.tensor(-1.0))

    def forward(self, embedding_BD: Tensor) -> Tensor:
        return normalize(self.linear(embedding_BD))

    def divided(self, score_BJ: Tensor, num_images: int) -> Tensor:
        """Divide scores by the mean score of the first batch ever, times the number of images."""
        with torch.no_grad():
            first = score_BJ.mean() * num_images
            constant = torch.where(self.constant < 0, first, self.constant)
            self.constant.copy_(constant)
        return score_BJ / constant

    @torch.no_grad()
    def remember(self, unit_BD: Tensor, index_B: Tensor, momentum: float) -> None:
        """Move the memory of the images to their embeddings, in place."""
        moved_BD = momentum * self.memory_ND[index_B] + (1 - momentum) * unit_BD
        self.memory_ND.index_copy_(0, index_B, normalize(moved_BD))


class Contrast(nn.Module):
    """Both networks' sides, and the draw of negatives."""

    def __init__(self, student: Side, teacher: Side, negatives: nn.Module, num_images: int) -> None:
        """Take what makes up the contrast, and the number of images that are trained on."""
        super().__init__()
        self.student, self.teacher, self.negatives = student, teacher, negatives
        self.num_images = num_images


def similarities(unit_BD: Tensor, memory_ND: Tensor, index_BJ: Tensor) -> Tensor:
    """Dot products of every row with rows of a memory, (B, J); the memory may be changed in place afterwards."""
    if len(memory_ND) <= _WHOLE_MEMORY_UP_TO * index_BJ.shape[1]:
        return (unit_BD @ memory_ND.clone().T).gather(1, index_BJ)
    return torch.einsum("bd,bjd->bj", unit_BD, memory_ND[index_BJ])


def contrast(ratio_BJ: Tensor, num_images: int) -> Tensor:
    """Noise-contrastive estimation of the first column against the K others. Tian et al., ICLR 2020.

    The mean over the batch of -log(r_0 / (r_0 + K/N)) - sum_k log((K/N) / (r_k + K/N)), with 1e-7 in both denominators.
    """
    noise = (ratio_BJ.shape[1] - 1) / num_images
    first_B, others_BK = ratio_BJ[:, 0], ratio_BJ[:, 1:]
    positive = (first_B / (first_B + noise + _EPS)).log().sum()
    negative = (noise / (others_BK + noise + _EPS)).log().sum()
    return -(positive + negative) / len(ratio_BJ)


@feature_loss("crd", title="CRD")
class CRD(FeatureLoss):
    """CE + 0.8 (c_s + c_t), c the contrast of an image with 16384 of other classes, by embeddings of 128 numbers.

    e = L2-normalized linear layer on each network's embedding, both trained; each side has a memory of e for every
    image. c_s: the student's e is compared with the teacher's memory, r = exp(e.m / 0.07) / Z, Z = N times the first
    batch's mean, and the image itself is told from the others by noise-contrastive estimation with K/N; c_t the other
    way round. After that, the image's rows move half way to its e, and are normalized again.

    As in the released code; but where a class has fewer than 16384 others, K is that number, for all classes, where the
    code draws with replacement; and negatives are drawn as `Negatives` says. N counts the images that are trained on.
    """

    weight: NonNegative = 0.8
    #: width of the embeddings
    dimension: Annotated[int, Field(ge=1, le=4096)] = 128
    #: images of other classes that an image is told from, at most
    negatives: Annotated[int, Field(ge=1, le=1_000_000)] = 16384
    temperature: Positive = 0.07
    #: how much of a memory stays when its image is seen
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5

    sees: ClassVar[Sees] = "map"
    couples_batch: ClassVar[bool] = True
    remembers_images: ClassVar[bool] = True

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        widths = [embedding_size(network, facts.image_size) for network in (student, teacher)]
        own, other = (Side(width, self.dimension, facts.num_images) for width in widths)
        negatives = Negatives(facts.targets_N, facts.num_classes, self.negatives)
        return Contrast(own, other, negatives, len(negatives.order_N))

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        if extras.index_B is None:
            raise ValueError("crd remembers every image: it needs their numbers in the training set")
        both, index_B = cast(Contrast, extras.modules), extras.index_B
        index_BJ = torch.cat([index_B[:, None], both.negatives(index_B, target_B, extras.epoch)], dim=1)
        sides = (both.student, both.teacher)
        units = [side(embedding_of(seen)) for side, seen in zip(sides, (student, teacher), strict=True)]
        terms = []
        for unit_BD, side, other in zip(units, sides, reversed(sides), strict=True):
            score_BJ = (similarities(unit_BD, other.memory_ND, index_BJ) / self.temperature).exp()
            terms.append(contrast(side.divided(score_BJ, both.num_images), both.num_images))
        for unit_BD, side in zip(units, sides, strict=True):
            side.remember(unit_BD.detach(), index_B, self.momentum)
        return torch.stack(terms).sum()
