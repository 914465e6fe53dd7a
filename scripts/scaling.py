"""How long a step takes in several processes: a model, checked on this machine in two, and what it says of many GPUs.

A step of N processes takes what one computes of its part, and what of the sum of the gradients does not hide behind
the backward pass: ``T(N) = C + max(0, S(N) - hidden * 2/3 * C) + B(N)``. ``S``, an all-reduce, moves
``2 (N - 1) / N`` of the gradients' bytes through each process, and waits for ``2 log2 N`` messages, up and down a
tree; two thirds of the computing are the backward pass; ``B`` are the small sums of batch norm over all processes,
two a layer, which nothing hides.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

PORT = 29512
SIZES = [2**power for power in range(10, 25, 2)]  # floats


@dataclass(frozen=True)
class Link:
    """``latency``: seconds of one message; ``bandwidth``: bytes a second, of each process in one direction."""

    latency: float
    bandwidth: float

    def all_reduce(self, nbytes: float, processes: int) -> float:
        """Seconds of a sum over all processes, in all of them."""
        moved = 2 * (processes - 1) / processes * nbytes
        return 2 * math.log2(processes) * self.latency + moved / self.bandwidth


@dataclass(frozen=True)
class Model:
    """A network: parameters, multiplications and additions (pairs) of a forward pass of a sample, batch-norm layers."""

    name: str
    parameters: float
    pairs: float
    batch_norms: int
    utilisation: float  # share of a GPU's peak that training reaches


# Parameters and pairs as torchvision's documentation states them; the utilisation is an assumption.
MODELS = [
    Model("resnet18", 11.7e6, 1.81e9, 20, 0.15),
    Model("resnet50", 25.6e6, 4.09e9, 53, 0.20),
    Model("vit_b_16", 86.6e6, 17.56e9, 0, 0.40),
    Model("vit_l_16", 304.3e6, 61.55e9, 0, 0.45),
]
PEAK = 989e12  # floating-point operations a second of an H100 SXM in bf16, dense (NVIDIA's data sheet)
LATENCY = 5e-6  # of a message between GPUs
# Bandwidths are those of a ring through all GPUs, which leaves each machine of 8 once.
NVLINK = Link(LATENCY, 450e9)  # H100, each direction (NVIDIA's data sheet)
INFINIBAND = Link(LATENCY, 8 * 400e9 / 8)  # 8 cards of 400 Gb/s a machine, as in a DGX H100
ETHERNET = Link(2e-5, 100e9 / 8)  # a card of 100 Gb/s a machine


def step_seconds(compute: float, gradients: float, link: Link, processes: int, hidden: float, norms: int = 0) -> float:
    """Seconds of a step of ``processes``, each of which computes for ``compute`` seconds; ``gradients`` in bytes."""
    if processes == 1:
        return compute
    exposed = max(0.0, link.all_reduce(gradients, processes) - hidden * 2 / 3 * compute)
    return compute + exposed + 2 * norms * link.all_reduce(0, processes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="of each measurement (default: 10)")
    steps = parser.parse_args().steps
    link = fitted(_in_two(_sums, steps))
    print(f"Two processes here: {link.latency * 1e6:.0f} µs a message, {link.bandwidth / 1e9:.2f} GB/s.\n")
    print(checked(link, steps), end="\n\n")
    print(expected())


def fitted(seconds: Sequence[float]) -> Link:
    """The link that explains the ``seconds`` of sums of :data:`SIZES` best, each relative to itself."""
    rows = torch.tensor([[1.0, size * 4.0] for size in SIZES], dtype=torch.float64)
    times = torch.tensor(seconds, dtype=torch.float64).unsqueeze(1)
    constant, slope = torch.linalg.lstsq(rows / times, torch.ones_like(times)).solution.flatten().tolist()
    # Of two processes: 2 messages, each of half the bytes.
    return Link(max(constant, 1e-7) / 2, 1 / slope)


def checked(link: Link, steps: int) -> str:
    """The model beside what two processes take, on one core each, where nothing can hide."""
    lines = ["| network, batch | one process | its half | two, measured | two, by the model | model / measured |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, batch in (("cnn", 64), ("mlp", 64), ("resnet18", 8)):
        whole, half = (_in_one(name, size, steps) for size in (batch, batch // 2))
        measured = _in_two(_steps, steps, name, batch // 2)
        nbytes = sum(parameter.nbytes for parameter in _network(name)[0].parameters())
        model = step_seconds(half, nbytes, link, 2, hidden=0.0)
        cells = [f"{value * 1e3:.1f} ms" for value in (whole, half, measured, model)]
        lines.append(f"| {name}, {batch} | {' | '.join(cells)} | {model / measured:.2f} |")
    return "\n".join(lines)


def expected() -> str:
    """Efficiency of many GPUs, by the model: what one would take for its part, divided by what it takes."""
    links = {"8, NVLink": (8, NVLINK)}
    links |= {f"{count}, InfiniBand": (count, INFINIBAND) for count in (64, 512)}
    links |= {f"{count}, Ethernet": (count, ETHERNET) for count in (64, 512)}
    apart_title = "512, InfiniBand, batch norm apart"
    lines = [f"| network, samples a GPU | computing | {' | '.join(links)} | {apart_title} | overlaps from |"]
    lines.append("| --- " * (4 + len(links)) + "|")
    for model in MODELS:
        for samples in (32, 128):
            compute = 6 * model.pairs * samples / (PEAK * model.utilisation)
            shares = [
                compute / step_seconds(compute, 4 * model.parameters, link, count, 1.0, model.batch_norms)
                for count, link in links.values()
            ]
            apart = compute / step_seconds(compute, 4 * model.parameters, INFINIBAND, 512, 1.0)
            # So many samples a GPU hide the sum of 64 GPUs' gradients over InfiniBand.
            needed = INFINIBAND.all_reduce(4 * model.parameters, 64) * 1.5 * samples / compute
            cells = [
                f"{compute * 1e3:.1f} ms",
                *(f"{share:.0%}" for share in [*shares, apart]),
                f"{needed:.0f} samples",
            ]
            lines.append(f"| {model.name}, {samples} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    from dltrain.models import CNN, MLP, resnet18

    shape = (3, 32, 32)
    if name == "mlp":
        return MLP(shape, 10, hidden_sizes=[1024, 1024]), shape
    return (CNN(shape, 10) if name == "cnn" else resnet18(shape, 10)), shape


def _timed(network: nn.Module, shape: tuple[int, ...], batch: int, steps: int) -> float:
    """Median seconds of a training step."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(batch, *shape), torch.randint(10, (batch,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, fused=True)
    seconds = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


def _in_one(name: str, batch: int, steps: int) -> float:
    torch.set_num_threads(1)
    network, shape = _network(name)
    return _timed(network, shape, batch, steps)


def _steps(steps: int, name: str, batch: int) -> float:
    network, shape = _network(name)
    return _timed(DistributedDataParallel(network), shape, batch, steps)


def _sums(steps: int) -> list[float]:
    """Median seconds of the sum of :data:`SIZES` floats."""
    found = []
    for size in SIZES:
        tensor, seconds = torch.zeros(size), []
        for _ in range(steps + 2):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(tensor)
            seconds.append(time.perf_counter() - began)
        found.append(statistics.median(seconds[2:]))
    return found


def _in_two(work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work`` returns in the first of two processes with one thread each."""
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    processes = [context.Process(target=_one_of_two, args=(rank, work, arguments, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    answer = answers.get()
    for process in processes:
        process.join()
    return answer


def _one_of_two(rank: int, work: Callable[..., Any], arguments: Sequence[Any], answers: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{PORT}", rank=rank, world_size=2)
    answer = work(*arguments)
    if rank == 0:
        answers.put(answer)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
