"""Several processes that do one job together, each a share of it; usually there is only one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from openset.errors import Lost

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(days=30)
"""A process may wait this long for the others: who started them ends all when one of them dies."""


@dataclass(frozen=True)
class Processes:
    """The processes of one job as one of them sees them.

    Each walks through the same steps. What is shared out and met over is named in the code, and
    everything else is done by each for itself, with the same outcome. `gather`, `give`, `total`,
    `agreed`, `in_order` and `once` are meetings, to which all must come.

    Args:
        rank: This process's number, from 0.
        count: How many there are.

    Example:
        >>> alone = Processes()
        >>> list(alone.share("abc")), alone.gather("a"), list(alone.in_order(iter("abc")))
        (['a', 'b', 'c'], ['a'], ['a', 'b', 'c'])
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes, and speaks, for all."""
        return self.rank == 0

    def owns(self, number: int) -> bool:
        """Whether the thing of that number is this process's to do."""
        return number % self.count == self.rank

    def share(self, things: Iterable[T]) -> Iterator[T]:
        """The things that are this process's to do: every `count`-th."""
        return islice(things, self.rank, None, self.count)

    def gather(self, thing: T) -> list[T]:
        """What each process brings, by rank."""
        if self.count == 1:
            return [thing]
        found: list[T] = [thing] * self.count
        with _meeting() as distributed:
            distributed.all_gather_object(found, thing)
        return found

    def give(self, thing: T, source: int = 0) -> T:
        """What the process of rank `source` brings, to all."""
        if self.count == 1:
            return thing
        held: list[T] = [thing]
        with _meeting() as distributed:
            distributed.broadcast_object_list(held, source)
        return held[0]

    def total(self, x: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in its place."""
        if self.count > 1:
            with _meeting() as distributed:
                distributed.all_reduce(x)
        return x

    def agreed(self, wish: bool) -> bool:
        """Whether any process wishes it."""
        if self.count == 1:
            return wish
        import torch

        return bool(self.total(torch.tensor(int(wish))))

    def in_order(self, own: Iterable[T]) -> Iterator[T]:
        """All things, in order, where each process brings those that `share` gave to it.

        No more than one thing of each process is in memory.
        """
        if self.count == 1:
            yield from own
            return
        things = iter(own)
        while True:
            brought = self.gather([*islice(things, 1)])
            yield from (thing for held in brought for thing in held)
            if not all(brought):  # Those of higher rank run out first.
                return

    def once(self, work: Callable[[], T]) -> T:
        """What the first process gets by doing a piece of work, to all."""
        return self.give(work() if self.first else None)  # pyright: ignore[reportReturnType]


_here: ContextVar[Processes | None] = ContextVar("processes", default=None)


def here() -> Processes:
    """The processes that do the job at hand; one, outside of `joined`."""
    return _here.get() or Processes()


@contextmanager
def joined(rank: int, count: int, device: torch.device) -> Iterator[Processes]:
    """Meets the other processes of a job, whose meeting place torch's variables of environment say.

    Meetings over tensors of a GPU go through NCCL, all others through Gloo.

    Args:
        rank: This process's number, from 0.
        count: How many there are.
        device: This process's own.
    """
    backend = "cpu:gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
    if device.type == "cuda":
        import torch

        torch.cuda.set_device(device)
    with _meeting() as distributed:
        distributed.init_process_group(backend, rank=rank, world_size=count, timeout=PATIENCE)
    token = _here.set(Processes(rank, count))
    try:
        yield here()
    finally:
        _here.reset(token)
        distributed.destroy_process_group()


@contextmanager
def shared_folder(where: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """A folder that all processes see: the given one, or one for this block alone.

    Raises:
        ValueError: If it is not there for a process, as on another machine.
    """
    group = here()
    with ExitStack() as stack:
        own = group.first and where is None
        new = stack.enter_context(TemporaryDirectory()) if own else where
        folder = Path(group.give(str(new)))
        if where is None and not folder.is_dir():
            raise ValueError(f"{folder} is not on this machine too; give TMPDIR a folder that is")
        yield folder
        group.gather(None)  # Before it goes, all have read it.


@contextmanager
def _meeting() -> Iterator[Any]:
    """Torch's means to meet, imported late; says in a sentence that another process is gone."""
    from torch import distributed

    try:
        yield distributed
    except RuntimeError as error:
        raise Lost("another process of this job has ended; its own message says why") from error
