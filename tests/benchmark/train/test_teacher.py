"""The frozen teacher says what the network says, in every form it takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import models
from benchmark.train.folding import folded
from benchmark.train.heads import Request, head_outputs
from benchmark.train.teacher import BatchTeacher
from models import Network

CPU = torch.device("cpu")
REQUESTS = [Request("weak", (1, 2, 4), "from_4x4"), Request("weak", (), "map"), Request("strong", (1, 2), "map")]


def used(create: Callable[[], Network]) -> Network:
    """Create a network whose batch norms have something to fold."""
    torch.manual_seed(1)
    network = create()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> Network:
    return used(lambda: models.create("resnet8x4", 10, 16))


@pytest.fixture(scope="module")
def views() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {"weak": torch.randn(6, 3, 16, 16), "strong": torch.randn(6, 3, 16, 16)}


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 3e-6), ("bf16", 3e-2)])
def test_outputs_are_the_networks(network: Network, views: dict[str, Tensor], precision: str, tolerance: float) -> None:
    teacher = BatchTeacher(network, REQUESTS, CPU, precision, 16)  # type: ignore[arg-type]
    shown = teacher.outputs(views)
    assert list(shown) == REQUESTS
    with torch.no_grad():
        for request, outputs in shown.items():
            expected = head_outputs(network, network.forward_features(views[request.view]), [request])[request]
            assert outputs.logits.dtype == outputs.regions.dtype == torch.float32
            assert relative(outputs.logits, expected.logits) < tolerance
            if request.scales:
                assert relative(outputs.regions, expected.regions) < tolerance
        assert relative(teacher.logits(views["weak"]), network(views["weak"])) < tolerance


def test_bf16_is_not_fp32(network: Network, views: dict[str, Tensor]) -> None:
    exact, rounded = (BatchTeacher(network, REQUESTS, CPU, precision, 16) for precision in ("fp32", "bf16"))  # type: ignore[arg-type]
    assert relative(rounded.logits(views["weak"]), exact.logits(views["weak"])) > 1e-5


@pytest.mark.parametrize(("storage", "tolerance"), [("fp16", 1e-3), ("fp32", 3e-6)])
def test_rounded_outputs_are_those_of_cells_handed_back(
    network: Network, views: dict[str, Tensor], storage: str, tolerance: float
) -> None:
    """With a storage type the numbers are the same whether a cache holds the cells or the network computes them."""
    exact = BatchTeacher(network, REQUESTS, CPU, "fp32", 16).outputs(views)
    teacher = BatchTeacher(network, REQUESTS, CPU, "fp32", 16, storage)  # type: ignore[arg-type]
    computed, handed_back = teacher.outputs(views), teacher.outputs(views, teacher.cells(views["weak"]))
    for request, outputs in exact.items():
        assert torch.equal(computed[request].logits, handed_back[request].logits)
        assert torch.equal(computed[request].regions, handed_back[request].regions)
        assert relative(computed[request].logits, outputs.logits) < tolerance
    strong = REQUESTS[2]
    assert torch.equal(computed[strong].regions, exact[strong].regions)


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2", "vgg8", "mobilenet_v2", "torchvision/resnet18"])
def test_folding_moves_the_map_by_rounding_only(name: str) -> None:
    network = used(lambda: models.create(name, 10, 32))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x_BCHW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        made = folded(network, x_BCHW)
        assert relative(made.forward_features(x_BCHW), network.forward_features(x_BCHW)) < 3e-6
    norms = [sum(isinstance(module, nn.BatchNorm2d) for module in one.modules()) for one in (network, made)]
    # a wide residual network normalises before it convolves: those behind an addition stay
    assert norms[1] == (6 if name == "wrn_16_2" else 0)
    assert norms[0] > norms[1]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class _Shared(Network):
    """One convolution whose output is read twice, one that is used twice: neither may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.twice, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 10)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        stem = self.stem(x_BCHW)
        return self.other(self.twice(self.twice(stem + self.norm(stem)))) + 1

    def classify(self, pooled_D: Tensor) -> Tensor:
        logits_K: Tensor = self.head(pooled_D)
        return logits_K


class _Wild(_Shared):
    """Cannot be traced."""

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        return super().forward_features(x_BCHW) if x_BCHW.sum() > -1e9 else x_BCHW


@pytest.mark.parametrize("kind", [_Shared, _Wild])
def test_what_cannot_be_folded_is_left_alone(kind: type[Network]) -> None:
    network, x_BCHW = used(kind), torch.randn(2, 3, 8, 8)
    made = folded(network, x_BCHW)
    with torch.no_grad():
        assert torch.equal(made.forward_features(x_BCHW), network.forward_features(x_BCHW))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in made.modules()) == 2


def test_folding_that_moves_the_map_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
        return convolution

    monkeypatch.setattr("benchmark.train.folding.fuse_conv_bn_eval", wrong)
    network, x_BCHW = used(lambda: models.create("resnet8", 10, 16)), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        made = folded(network, x_BCHW)
        assert torch.equal(made.forward_features(x_BCHW), network.forward_features(x_BCHW))
