"""Data parallel: ranks that share minibatches train the same student as one process that averages their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import TCPStore

from benchmark import datasets
from benchmark.config import Data, RunConfig
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.train.batches import TrainStream, splits
from benchmark.train.heads import network_outputs
from benchmark.train.lane import Lane, create_modules, create_network
from benchmark.train.ranks import ALONE, LostContact, Ranks, connected
from distillers.base import Extras, Facts
from models import Network
from tests.conftest import make_config
from tests.processes import exit_code, heard, pipe, start

#: a method on logits over regions, and one with a connector that has batch norms
METHODS = ("sdd_dkd", "simkd")
#: the last batch of 77 images has 13, of which the ranks get 6 and 7
IMAGES, RECIPE = 77, {"batch_size": 32, "clip_norm": 1.0}
NUM_RANKS = 2


def config_of(method: str) -> RunConfig:
    data = Data(name="digits", num_train=IMAGES, num_test=60)
    return make_config(method, recipe=RECIPE, ranks=NUM_RANKS, data=data)


def stream_of(config: RunConfig, digits: DataSet, ranks: Ranks) -> TrainStream:
    members = splits(digits, config.data).train
    cpu = torch.device("cpu")
    return TrainStream(digits, digits.train, members, config.recipe, config.seed, ["weak"], cpu, ranks)


def teacher_of(digits: DataSet) -> Network:
    return create_network("resnet8", digits.num_classes, digits.image_size, seed=7).eval()


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def train_in_rank(rank: int, port: int, folder: Path) -> None:
    """Train a lane per method on this rank's shares for an epoch; write its state."""
    torch.set_default_dtype(torch.float64)
    digits = datasets.create("digits", Path())
    store = TCPStore("127.0.0.1", port, NUM_RANKS, is_master=False)
    with connected(rank, NUM_RANKS, store) as ranks:
        for method in METHODS:
            config, teacher = config_of(method), teacher_of(digits)
            lane = Lane(
                config, digits.num_classes, digits.image_size, torch.device("cpu"), teacher, digits.train.targets, ranks
            )
            lane.start_epoch(1)
            for batch in stream_of(config, digits, ranks).epoch(1):
                views = {"weak": batch.views["weak"].double()}
                with torch.no_grad():
                    shown = network_outputs(teacher, views["weak"], lane.requests)
                lane.step(views, batch.target_B, shown, batch.index_B)
            lane.finish_epoch(1)
            torch.save(lane.state(), folder / f"{method}-{rank}.pt")


def averaged(config: RunConfig, digits: DataSet) -> tuple[Network, nn.Module | None]:
    """Train in one process, with the gradients of each minibatch averaged over the ranks' shares of it."""
    distiller, teacher = config.distiller(), teacher_of(digits)
    network = create_network(config.student, digits.num_classes, digits.image_size, config.seed).train()
    facts = Facts(digits.num_classes, digits.image_size, digits.train.targets, config.recipe.batch_size // NUM_RANKS)
    modules = create_modules(distiller, network, teacher, facts, config.seed)
    requests = Lane(config, digits.num_classes, digits.image_size, torch.device("cpu"), teacher).requests
    trained = [*network.parameters(), *(modules.parameters() if modules is not None else ())]
    recipe = config.recipe
    optimizer = torch.optim.SGD(trained, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    for batch in stream_of(config, digits, ALONE).epoch(1):
        optimizer.zero_grad()
        for rank in range(NUM_RANKS):
            share = Ranks(rank, NUM_RANKS).share(len(batch.target_B))
            x_BCHW, target_B = batch.views["weak"].double()[share], batch.target_B[share]
            with torch.no_grad():
                shown = network_outputs(teacher, x_BCHW, requests)
            student = {"weak": network_outputs(network, x_BCHW, requests)[requests[0]]}
            losses = distiller.losses(student, {"weak": shown[requests[0]]}, target_B, 1, Extras(modules))
            (sum(losses.values()) * len(target_B) / len(batch.target_B)).backward()
        nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
        optimizer.step()
    return network, modules


def test_ranks_train_what_one_process_does_that_averages_their_gradients(
    tmp_path: Path, digits: DataSet, float64: None
) -> None:
    alone = {method: averaged(config_of(method), digits) for method in METHODS}
    store = TCPStore("127.0.0.1", 0, NUM_RANKS, is_master=True, wait_for_workers=False)
    processes = [start(train_in_rank, rank, store.port, tmp_path) for rank in range(NUM_RANKS)]
    assert [exit_code(process) for process in processes] == [0] * NUM_RANKS
    for method, (network, modules) in alone.items():
        state, *others = [torch.load(tmp_path / f"{method}-{rank}.pt") for rank in range(NUM_RANKS)]
        for other in others:
            assert other["history"] == state["history"]
            assert_close(other["network"], state["network"], 0)  # running statistics too
        assert_close(dict(network.named_parameters()), state["network"], 1e-12)
        assert_close({} if modules is None else dict(modules.named_parameters()), state.get("modules", {}), 1e-12)


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    for name, value in ours.items():
        torch.testing.assert_close(value.detach(), theirs[name], rtol=0, atol=tolerance, msg=name)


def average_in_rank(rank: int, port: int, folder: Path) -> None:
    """Average gradients of which the second rank lacks one, and nobody has the last."""
    store = TCPStore("127.0.0.1", port, NUM_RANKS, is_master=False)
    with connected(rank, NUM_RANKS, store) as ranks:
        parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
        parameters[0].grad = torch.full((2,), 1.0 + rank)
        if rank == 0:
            parameters[1].grad = torch.full((2,), 8.0)
        ranks.average(parameters, [], 1 if rank == 0 else 3)
        torch.save([p.grad for p in parameters], folder / f"{rank}.pt")


def test_a_loss_that_leaves_a_parameter_out_on_one_rank_is_averaged(tmp_path: Path) -> None:
    """As SemCKD's does on a share that is smaller than its layers are wide."""
    store = TCPStore("127.0.0.1", 0, NUM_RANKS, is_master=True, wait_for_workers=False)
    processes = [start(average_in_rank, rank, store.port, tmp_path) for rank in range(NUM_RANKS)]
    assert [exit_code(process) for process in processes] == [0] * NUM_RANKS
    for rank in range(NUM_RANKS):
        both, one, none = torch.load(tmp_path / f"{rank}.pt")
        assert both.tolist() == [(1 * 1 + 3 * 2) / 4] * 2
        assert one.tolist() == [8 / 4] * 2
        assert none is None


@pytest.mark.parametrize(("count", "size"), [(64, 2), (33, 4), (3, 3), (1281167, 7)])
def test_shares_have_no_gaps_and_no_repeats(count: int, size: int) -> None:
    shares = [Ranks(rank, size).share(count) for rank in range(size)]
    assert [one.start for one in shares] == [0, *(one.stop for one in shares[:-1])]
    assert shares[-1].stop == count
    assert max(one.stop - one.start for one in shares) - min(one.stop - one.start for one in shares) <= 1


def test_every_image_of_an_epoch_is_in_one_share(digits: DataSet) -> None:
    config = config_of("vanilla")
    whole = [batch.index_B for batch in stream_of(config, digits, ALONE).epoch(2)]
    shares = [[*stream_of(config, digits, Ranks(rank, 2)).epoch(2)] for rank in range(2)]
    for number, index_B in enumerate(whole):
        assert torch.equal(torch.cat([batches[number].index_B for batches in shares]), index_B)
    # the views of an image are the same in a share as in the whole minibatch
    first = next(iter(stream_of(config, digits, ALONE).epoch(2))).views["weak"]
    assert torch.equal(torch.cat([batches[0].views["weak"] for batches in shares]), first)


def ask_a_rank_that_ends(rank: int, port: int, channel: Connection) -> None:
    store = TCPStore("127.0.0.1", port, 2, is_master=False)
    with connected(rank, 2, store) as ranks:
        if rank == 0:
            assert ranks.agreed(lambda: 7) == 7
            try:
                ranks.agreed(lambda: int("x"))
            except ValueError as error:
                channel.send(str(error))
            return
        channel.send(ranks.agreed(lambda: 8))
        with pytest.raises(ValueError, match="invalid literal"):
            ranks.agreed(lambda: 9)
        with pytest.raises(LostContact):
            ranks.total(torch.ones(1))


def test_rank_0_decides_for_all_and_a_rank_that_ended_is_noticed() -> None:
    store = TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    channels = [pipe() for _ in range(2)]
    processes = [start(ask_a_rank_that_ends, rank, store.port, theirs) for rank, (_, theirs) in enumerate(channels)]
    assert "invalid literal" in heard(channels[0][0])
    assert heard(channels[1][0]) == 7
    assert [exit_code(process) for process in processes] == [0, 0]


def test_batch_norms_over_ranks_are_refused_on_a_cpu(digits: DataSet) -> None:
    config = make_config(ranks=2, sync_batch_norm=True)
    with pytest.raises(UserError, match="sync_batch_norm"):
        Lane(config, digits.num_classes, digits.image_size, torch.device("cpu"), ranks=Ranks(0, 2))


def test_one_rank_leaves_the_signature_as_it_was() -> None:
    assert make_config().signature("d", None) == make_config(ranks=1).signature("d", None)
    assert make_config().signature("d", None) != make_config(ranks=2).signature("d", None)
