"""Several processes that train one model: which rows are whose, and what they tell each other.

`torchrun` starts the processes and says in the environment who is who. Each holds all the networks, takes its rows of
every batch, and makes the same step; the first alone writes. Alone, every function here gives back what it was given.

One rule holds everywhere: *the mean over the processes of their gradients is the gradient of one process with the whole
batch*. A mean over rows keeps it by itself; what compares rows with one another (contrastive terms, mismatched
captions) looks at the rows of all processes through `gather`. Random numbers are drawn for the whole batch from the
step's one seed, and each process keeps those of its rows, so two processes learn what one does, up to the rounding of
sums.

Gradients are averaged by one all-reduce of all of them, in `average`, not by ``DistributedDataParallel``. That wrapper
ties an all-reduce to each backward pass through one module's ``forward``; here D is called three times a step and its
head apart from its trunk, G's backward pass goes through a frozen D and E, parts are frozen and thawed between the
two, and a step that is not finite must be left out by all alike before any weight moves. The networks are small (some
ten MB of gradients), so what the wrapper would gain, sending while still computing, is little.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from t2i_cli.checkpoint import RunState
from t2i_cli.errors import TrainingError, UsageError
from t2i_cli.signals import StopRequest

__all__ = [
    "LostError",
    "World",
    "agree",
    "average",
    "device_name",
    "from_first",
    "gather",
    "in_turn",
    "joined",
    "launched",
    "mean",
    "normal",
    "same",
    "share",
    "state_from_first",
    "take_over",
    "uniform",
    "wait",
    "watched",
    "world",
]

LONGEST_WAIT = timedelta(
    hours=24
)  # for one another, while the first decodes pictures or lets a teacher read
CALLING = timedelta(seconds=10)  # for the launcher, which is there before its processes or has died
MEETING = timedelta(minutes=5)  # until all are there
BEAT = 2.0  # s between two signs of life
SILENCE = 25.0  # s without one, after which a process counts as gone

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Who a process is among those that train together."""

    rank: int = 0
    size: int = 1  # how many there are
    local_rank: int = 0  # on its own machine, which is the number of its GPU

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0


class LostError(TrainingError):
    """The other processes can no longer be reached."""


_world = World()  # as torch's own process group, it belongs to the process


def world() -> World:
    """Who this process is; alone outside `joined`."""
    return _world


def launched() -> World:
    """What torchrun says of this process in the environment; alone where there is nothing, or one process."""
    try:
        found = World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except (KeyError, ValueError):
        return World()
    return found if found.size > 1 else World()


def device_name(name: str) -> str:
    """The device of this process where torchrun started it: the GPU of its own number, or the CPU.

    Raises:
        UsageError: a device that several processes cannot share.
    """
    me = launched()
    if me.size == 1 or name == "cpu":
        return name
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return f"cuda:{me.local_rank}"
    if name == "auto":
        return "cpu"
    raise UsageError(
        f"--device {name}: several processes cannot share it",
        "use cuda, which gives each process the GPU of its own number, or cpu",
    )


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Be one of the processes that torchrun started, for the length of a ``with`` block; alone, do nothing.

    Raises:
        LostError: the others do not come.
    """
    global _world
    me = launched()
    if me.size == 1:
        yield me
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _reaching():
        found, rank, size = next(dist.rendezvous("env://", timeout=CALLING))  # pyright: ignore[reportPrivateImportUsage]
        store = dist.PrefixStore(_attempt(), found)  # pyright: ignore[reportPrivateImportUsage]
        # the group itself waits for as long as it waits later, which is too long for somebody who never comes
        store.set(f"here/{rank}", "1")
        store.wait([f"here/{other}" for other in range(size)], MEETING)
        # what is small and decides (signals, states, figures) goes through the CPU on any device
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=LONGEST_WAIT,
        )
    _world = me
    try:
        yield me
        dist.destroy_process_group()  # after an error the process ends, and waits for nobody
    finally:
        _world = World()


def _attempt() -> str:
    """A name for what processes write into torchrun's store: after a restart it still holds what the dead wrote."""
    return f"t2i/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


@contextmanager
def _reaching() -> Iterator[None]:
    """Whatever goes wrong between processes, as one error."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostError(
            f"process {launched().rank} of {launched().size} has lost the others",
            "the first error above says why; go on from the last save with --resume",
        ) from error


# -- rows of a batch ------------------------------------------------------------------------------


def share(rows: int) -> slice:
    """Which rows of a whole batch are this process's."""
    each = rows // _world.size
    assert each * _world.size == rows, (rows, _world.size)
    return slice(_world.rank * each, (_world.rank + 1) * each)


def uniform(random: torch.Generator, *shape: int, dim: int = 0) -> Tensor:
    """Numbers in [0, 1) for this process's rows, out of those of the whole batch.

    Args:
        random: of the step, the same on all processes.
        shape: with this process's rows.
        dim: where the rows are.
    """
    return _mine(torch.rand(_whole(shape, dim), device=random.device, generator=random), dim)


def normal(random: torch.Generator, *shape: int, dim: int = 0) -> Tensor:
    """Standard normal numbers, as `uniform`."""
    return _mine(torch.randn(_whole(shape, dim), device=random.device, generator=random), dim)


def _whole(shape: Sequence[int], dim: int) -> list[int]:
    return [size * _world.size if at == dim else size for at, size in enumerate(shape)]


def _mine(drawn: Tensor, dim: int) -> Tensor:
    if _world.size == 1:
        return drawn
    rows = share(drawn.shape[dim])
    return drawn.narrow(dim, rows.start, rows.stop - rows.start).contiguous()


def gather(rows: Tensor) -> Tensor:
    """Each process's rows (b, ...) -> the whole batch's (b x processes, ...), through which gradients flow.

    For a loss of the whole batch, which every process computes alike.
    """
    return rows if _world.size == 1 else _Gather.apply(rows)  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows.contiguous()) for _ in range(_world.size)]
        with _reaching():
            dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # every process computed the same loss of the same rows, so the gradient here is the same on all and nothing is
        # sent; only this process goes on with these rows, and the mean that `average` takes must not make them small
        return gradients[0][share(len(gradients[0]))] * _world.size


@torch.no_grad()
def average(parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
    """Gradients, in place, and the loss -> their means over the processes; all get the same bits.

    So what is not finite on one process is not finite on all, and all leave the step out.

    Args:
        parameters: each with a gradient, the same ones on all processes.
        loss: of this process, a number.

    Returns:
        The mean loss.
    """
    if _world.size == 1:
        return loss
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), loss.reshape(1).float()])
    with _reaching():
        dist.all_reduce(flat)
    flat /= _world.size
    for gradient, part in zip(
        gradients, flat[:-1].split([g.numel() for g in gradients]), strict=True
    ):
        gradient.copy_(part.view(gradient.shape))
    return flat[-1]


def mean(figures: Mapping[str, Tensor | float]) -> Mapping[str, Tensor | float]:
    """Figures of a step -> their means over the processes; the names are the same on all."""
    if _world.size == 1:
        return figures
    values = torch.tensor([float(value) for value in figures.values()], dtype=torch.float64)
    with _reaching():
        dist.all_reduce(values)
    return dict(zip(figures, (values / _world.size).tolist(), strict=True))


# -- one run of several processes -----------------------------------------------------------------


def agree(wish: StopRequest, seconds: tuple[float, ...]) -> tuple[StopRequest, tuple[float, ...]]:
    """What all processes take for true after a step: a signal that any of them met, and the first one's clock.

    Args:
        wish: of this process; what it notes later counts at the next call.
        seconds: on this process's clock.
    """
    if _world.size == 1:
        return wish, seconds
    save, wish.save_now = wish.save_now, False
    told = torch.tensor([wish.signum, save, *seconds], dtype=torch.float64)
    if not _world.first:
        told[2:] = 0.0
    with _reaching():
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
    signum, save, *seconds_told = told.tolist()
    wish.signum = int(signum) or wish.signum
    return StopRequest(int(signum), bool(save)), tuple(seconds_told)


def wait() -> None:
    """Until all processes are here."""
    if _world.size > 1:
        with _reaching():
            dist.all_reduce(torch.zeros(1))


@contextmanager
def in_turn() -> Iterator[None]:
    """One after another: the first process, then the first of each other machine, then the rest.

    For work whose result stays in a cache, so that it is done once, or once a machine where caches are not shared.
    """
    turn = 0 if _world.first else 1 if _world.local_rank == 0 else 2
    for _ in range(turn):
        wait()
    yield
    for _ in range(2 - turn):
        wait()


def from_first(value: T) -> T:
    """The first process's value (anything that JSON holds, or bytes) on all of them."""
    if _world.size == 1:
        return value
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    size = torch.tensor([len(raw)])
    with _reaching():
        dist.broadcast(size, 0)
        content = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0)
        if not _world.first:
            content = torch.empty(int(size), dtype=torch.uint8)
        if int(size):
            dist.broadcast(content, 0)
    told: Any = content.numpy().tobytes()
    return told if isinstance(value, bytes) else json.loads(told)


def take_over(tensors: Mapping[str, Tensor]) -> None:
    """Overwrite tensors with those of the first process, so that all go on from the same bits."""
    if _world.size == 1:
        return
    for tensor in tensors.values():
        content = tensor.detach().contiguous().reshape(-1)
        with _reaching():
            dist.broadcast(content.view(torch.uint8), 0)  # as bytes: any dtype
        with torch.no_grad():
            told = content.view(tensor.shape)
            if not torch.equal(tensor, told):  # a constant may be a view that cannot be written
                tensor.copy_(told)


def state_from_first(state: RunState | None) -> RunState | None:
    """The state that the first process has read, on all of them: the run folder need be on no other machine."""
    if _world.size == 1:
        return state
    mine: Any = None
    if state is not None:
        shapes = {
            group: {
                name: [str(t.dtype).removeprefix("torch."), list(t.shape), list(t.stride())]
                for name, t in tensors.items()
            }
            for group, tensors in state.files.items()
        }
        mine = [state.step, state.meta, str(state.path), shapes]
    told = from_first(mine)
    if told is None:
        return None
    step, meta, path, shapes = told
    if state is None:
        state = RunState(step, {group: {} for group in shapes}, meta, Path(path))
        for group, tensors in shapes.items():
            for name, (dtype, shape, stride) in tensors.items():
                empty = torch.empty_strided(shape, stride, dtype=getattr(torch, dtype))
                state.files[group][name] = empty
    for group in shapes:  # in the order of the first process
        take_over({name: state.files[group][name] for name in shapes[group]})
    return state


def same(value: str, what: str) -> None:
    """Make sure that all processes hold the same value.

    Raises:
        UsageError: one of them does not.
    """
    if _world.size == 1:
        return
    mine = torch.frombuffer(
        bytearray(hashlib.sha256(value.encode()).digest()), dtype=torch.uint8
    ).to(torch.int64)
    theirs = [torch.empty_like(mine) for _ in range(_world.size)]
    with _reaching():
        dist.all_gather(theirs, mine)
    for rank, other in enumerate(theirs):
        if not torch.equal(other, theirs[0]):
            raise UsageError(
                f"process {rank} has other {what} than process 0", "give every machine the same"
            )


# -- signs of life --------------------------------------------------------------------------------


@contextmanager
def watched() -> Iterator[None]:
    """End this process where another one falls silent, for the length of a ``with`` block.

    A process that dies closes its connections, which gloo notices at once, and torchrun ends the rest of its machine.
    But NCCL waits on, and a machine that loses its power closes nothing. So each process leaves a sign of life with
    torchrun's own store and looks for the next process's.
    """
    if _world.size == 1:
        yield
        return
    over = threading.Event()
    wait()  # so that all begin to look at about the same time
    threading.Thread(target=_watch, args=(_world, over), name="t2i-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(me: World, over: threading.Event) -> None:
    names = [f"{_attempt()}/alive/{rank}" for rank in range(me.size)]
    heard, silent = 0, 0.0
    gone = ""
    try:
        store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
            wait_for_workers=False, timeout=timedelta(seconds=10),
        )  # fmt: skip
        while not over.wait(BEAT):
            store.add(names[me.rank], 1)
            after = (me.rank + 1) % me.size
            now = store.add(names[after], 0)
            heard, silent = now, 0.0 if now != heard else silent + BEAT
            if store.add(f"{_attempt()}/over", 0):
                gone = "another process has ended"
            elif silent >= SILENCE:
                store.add(f"{_attempt()}/over", 1)
                gone = f"process {after} has given no sign of life for {SILENCE:.0f} s"
            if gone:
                break
    except RuntimeError:
        gone = "the launcher cannot be reached any more"
    if gone and not over.is_set():
        line = f"t2i: error: process {me.rank} of {me.size}: {gone}; go on with --resume\n"
        os.write(2, line.encode())
        os._exit(1)  # the main thread may wait in a library for somebody who will not come
