"""CC: Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019 (arXiv 1904.01802)."""

from __future__ import annotations

from typing import Annotated, ClassVar, cast

from pydantic import Field
from torch import Tensor, nn

from distillers.base import Extras, Facts, NonNegative, Outputs, Sees
from distillers.feature_loss import FeatureLoss, embedding_of, embedding_size, feature_loss
from distillers.network import Network


@feature_loss("cc", title="CC")
class CC(FeatureLoss):
    """CE + 0.02 mean_b sum_d |d_b| |d_b+1|, d the differences of linear embeddings.

    b and b + 1 are neighbours in the batch. Both embeddings are trained, as in the code that printed its numbers.
    """

    weight: NonNegative = 0.02
    #: width of the embeddings
    dimension: Annotated[int, Field(ge=1, le=4096)] = 128

    sees: ClassVar[Sees] = "map"
    couples_batch: ClassVar[bool] = True

    def modules(self, student: Network, teacher: Network, facts: Facts) -> nn.Module | None:
        return nn.ModuleDict(
            {
                name: nn.Linear(embedding_size(network, facts.image_size), self.dimension)
                for name, network in (("student", student), ("teacher", teacher))
            }
        )

    def loss(self, student: Outputs, teacher: Outputs, target_B: Tensor, extras: Extras) -> Tensor:
        embed = cast(nn.ModuleDict, extras.modules)
        difference_BD = (embed["student"](embedding_of(student)) - embed["teacher"](embedding_of(teacher))).abs()
        # a batch of one has no neighbours
        products: Tensor = (difference_BD[:-1] * difference_BD[1:]).sum()
        return products / max(len(difference_BD) - 1, 1)
