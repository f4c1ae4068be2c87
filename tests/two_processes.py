"""What test_distributed.py checks, each a function that both of two processes run.

Each computes by itself what one process would give, and holds the result of both against it.
"""

import copy
import os
import queue
import traceback
import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import stateless
from torch.testing import assert_close

import fastconv
from fastconv import models, ops
from fastconv.distributed import HalfOfAlexNet
from fastconv.distributed.train import Way, prepare
from fastconv.distributed.train import train as train_example
from fastconv.models.alexnet import TWO_GROUPS, AlexNet, Conv, least_size
from tests.small_network import images, plain_and_swapped

CLASSES = 6
STEPS = 3


def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (2,))


def replicated(tensor: Tensor) -> DTensor:
    return distribute_tensor(tensor, mesh(), [Replicate()])


def mobilenet(memory_format: torch.memory_format = torch.contiguous_format) -> nn.Module:
    torch.manual_seed(1)
    model = models.build("mobilenet_v2", num_classes=CLASSES, width_multiplier=0.25, dropout=0.0)
    return fastconv.swap_(model).double().to(memory_format=memory_format)


def batches() -> list[tuple[Tensor, Tensor]]:
    """Of each step, the halves of the two processes one behind the other."""
    torch.manual_seed(2)
    inputs, targets = torch.randn(STEPS, 4, 3, 32, 32).double(), torch.randint(CLASSES, (STEPS, 4))
    return list(zip(inputs, targets, strict=True))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def one_process(model: nn.Module) -> dict[str, Tensor]:
    """The weights after training on the mean gradient of both halves, each normalised by itself."""
    optimizer = sgd(model)
    for batch, targets in batches():
        optimizer.zero_grad()
        for half, wanted in zip(batch.chunk(2), targets.chunk(2), strict=True):
            (nn.functional.cross_entropy(model(half), wanted) / 2).backward()
        optimizer.step()
    return dict(model.named_parameters())


def train(model: nn.Module) -> None:
    """As one_process, on the half of this process."""
    optimizer = sgd(model)
    for batch, targets in batches():
        half, wanted = batch.chunk(2)[dist.get_rank()], targets.chunk(2)[dist.get_rank()]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(half), wanted).backward()
        optimizer.step()


def data_parallel() -> None:
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = mobilenet(memory_format)
        expected = one_process(copy.deepcopy(model))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # gradients that come in other strides than parameters
            train(DistributedDataParallel(model))
        assert_close(dict(model.named_parameters()), expected)


def fully_sharded() -> None:
    model = mobilenet()
    expected = one_process(copy.deepcopy(model))
    for block in model.features:
        fully_shard(block, mesh=mesh())
    fully_shard(model, mesh=mesh())
    train(model)
    assert_close({n: p.full_tensor() for n, p in model.named_parameters()}, expected)


def sharded_images() -> None:
    """Any split of the images gives what one process gives, also by the statistics of a batch."""
    torch.manual_seed(3)
    model = fastconv.swap_(
        nn.Sequential(
            *(nn.Conv2d(8, 6, 1), nn.LocalResponseNorm(3), nn.BatchNorm2d(6), nn.ReLU()),
            *(nn.Conv2d(6, 6, 3, 2, 1, groups=6), nn.Conv2d(6, 6, 3, 1, 1, groups=6)),
            fastconv.nn.MaxPool2d(2),
            fastconv.nn.GlobalAvgPool2d(),
        )
    ).double()
    x = torch.randn(5, 8, 9, 8).double().requires_grad_()
    whole = {name: replicated(value.detach().clone()) for name, value in model.state_dict().items()}
    for name, _ in model.named_parameters():
        whole[name].requires_grad_()
    ours = distribute_tensor(x.detach(), mesh(), [Shard(0)]).requires_grad_()
    with stateless._reparametrize_module(model, whole):
        output = model(ours)
        output.sin().sum().backward()
    expected = model(x)
    expected.sin().sum().backward()
    assert_close(output.full_tensor(), expected)
    assert_close(ours.grad.full_tensor(), x.grad)
    for name, parameter in model.named_parameters():
        assert_close(whole[name].grad.full_tensor(), parameter.grad)
    for name, buffer in model.named_buffers():
        assert_close(whole[name].full_tensor(), buffer)


def sharded_channels() -> None:
    """Expansion, depthwise and projection with their channels split: one sum at the end."""
    torch.manual_seed(4)
    x = torch.randn(2, 4, 6, 6).double()
    shapes = {"expand": (8, 4, 1, 1), "depthwise": (8, 1, 3, 3), "project": (4, 8, 1, 1)}
    weights = {name: torch.randn(shape).double() for name, shape in shapes.items()}
    bias = torch.randn(8).double()

    def block(
        x: Tensor, expand: Tensor, depthwise: Tensor, project: Tensor, bias: Tensor
    ) -> Tensor:
        hidden = ops.pointwise_conv2d(x, expand, bias, activation="relu6")
        hidden = ops.depthwise_conv2d(hidden, depthwise, bias, 1, 1, activation="silu")
        return ops.pointwise_conv2d(hidden, project)

    dims = {"expand": 0, "depthwise": 0, "project": 1}
    shards = {n: distribute_tensor(w, mesh(), [Shard(dims[n])]) for n, w in weights.items()}
    for tensor in (*weights.values(), *shards.values()):
        tensor.requires_grad_()
    whole, split_bias = replicated(x), distribute_tensor(bias, mesh(), [Shard(0)])
    with CommDebugMode() as communication:
        y = block(whole, bias=split_bias, **shards)
    assert communication.get_total_counts() == 0
    assert y.placements[0].is_partial()
    y.full_tensor().square().sum().backward()
    expected = block(x, bias=bias, **weights)
    expected.square().sum().backward()
    assert_close(y.full_tensor(), expected)
    for name in shards:
        assert_close(shards[name].grad.full_tensor(), weights[name].grad)


def fused_blocks() -> None:
    """The blocks for inference, alone and in what optimize makes, over split images."""
    torch.manual_seed(5)
    model = plain_and_swapped()[0]
    fast, x, hidden = fastconv.optimize(model, (images(),)), images(), torch.randn(4, 6, 5, 5)
    expand, depthwise = torch.randn(6, 6, 1, 1), torch.randn(6, 1, 3, 3)

    def block(x: Tensor, expand: Tensor, depthwise: Tensor) -> Tensor:
        return ops.inverted_residual(x, expand, None, depthwise, None, expand, None, 1, 1)

    whole = {name: replicated(value) for name, value in fast.named_buffers()}
    with torch.no_grad(), stateless._reparametrize_module(fast, whole):
        output = fast(distribute_tensor(x, mesh(), [Shard(0)]))
    assert output.placements[0].is_shard(0)
    assert_close(output.full_tensor(), fast(x))
    with torch.no_grad():
        weights = replicated(expand), replicated(depthwise)
        output = block(distribute_tensor(hidden, mesh(), [Shard(0)]), *weights)
    assert output.placements[0].is_shard(0)
    assert_close(output.full_tensor(), block(hidden, expand, depthwise))


def small_alexnet() -> AlexNet:
    torch.manual_seed(6)
    rows = [r._replace(channels=r.channels // 8) if isinstance(r, Conv) else r for r in TWO_GROUPS]
    model = AlexNet(rows, CLASSES, dropout=0.0, layers=fastconv.nn, widths=(16, 16))
    assert least_size(rows) == 63
    return model.double()


def two_groups() -> None:
    whole, half = small_alexnet(), HalfOfAlexNet(small_alexnet())
    torch.manual_seed(7)
    x, target = torch.randn(2, 3, 67, 67).double(), torch.randint(CLASSES, (2,))
    assert sum(p.numel() for p in half.parameters()) * 2 == sum(
        p.numel() for p in whole.parameters()
    )
    for model in (whole, half):
        optimizer = sgd(model)
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), target).backward()
            optimizer.step()
    assert_close(half(x), whole(x))
    assert_close(half.whole_state_dict(), dict(whole.state_dict()))


def the_example() -> None:
    """One network, batch and dropout by either way."""
    ways = (Way.DDP, Way.FSDP)
    losses = [train_example(prepare(way, "mobilenet_v2", 32), way, 2, 32, 2) for way in ways]
    assert_close(*losses)


CHECKS = (
    data_parallel,
    fully_sharded,
    sharded_images,
    sharded_channels,
    fused_blocks,
    two_groups,
    the_example,
)


def run(rank: int, port: int, failures: "queue.Queue[tuple[str, str]]") -> None:
    """Runs every check in this process, and puts what fails into failures."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for check in CHECKS:
        try:
            check()
        except Exception:
            failures.put((f"{check.__name__}, process {rank}", traceback.format_exc()))
            break  # the other process may wait for this one
    dist.destroy_process_group()
