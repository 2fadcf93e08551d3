"""Several processes that share the tasks of a meta-batch: which tasks are whose, and sums over all of them.

`srun` or `torchrun` starts the same program once for each rank; `join` finds the others. An algorithm that shares its
tasks over ranks works on its own share and adds up (`Ranks.sum`) what it would have summed over all tasks; everything
that follows from the sums is computed by every rank alike. `ALONE` is the process that has no others.

Sums go in task order, whoever has the tasks. An all-reduce would send less, but add in another order, and conjugate
gradient makes 1e-5 of the last bit that this changes; policies are small, and so is what is sent.

Every exchange is one that all ranks take part in, in the same order. A rank that is gone is noticed at once, as its
connections are; one that says nothing (its machine lost power) after `TIMEOUT` seconds.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import operator
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from research.rng import Rows

TIMEOUT = "METAPOLICY_RANK_TIMEOUT"
"""Environment variable: the seconds that a rank waits for another one; 300 if it is not set."""


class RankLostError(RuntimeError):
    """Another rank is gone, or silent for too long, or has other numbers. What this one has is all there is."""


class Share(NamedTuple):
    """Every `step`-th of `total` tasks, from `first` on: so a rank has its share of any range of them, too."""

    first: int
    step: int
    total: int

    @property
    def tasks(self) -> slice:
        """Where they are among all."""
        return slice(self.first, self.total, self.step)

    @property
    def size(self) -> int:
        """How many they are."""
        return len(range(self.total)[self.tasks])

    def within(self, start: int, stop: int) -> tuple[slice, Share]:
        """Those from `start` to `stop` of all: where they are among one's own, and which share of that range."""
        begin, end = (len(range(self.first, bound, self.step)) for bound in (start, stop))
        return slice(begin, end), Share(self.first + begin * self.step - start, self.step, stop - start)

    def rows(self, episodes: int) -> Rows:
        """The rows of environments that have `episodes` for each task."""
        tasks = np.arange(self.total)[self.tasks]
        return Rows((tasks[:, None] * episodes + np.arange(episodes)).ravel(), self.total * episodes)

    def sample(self, distribution: Any, generator: torch.Generator) -> Tensor:
        """Actions of one's own tasks, `distribution` being theirs: those that a sample for all tasks would hold."""
        if self.step == 1:
            return distribution.sample(generator)

        def of_all(leaf: Tensor) -> Tensor:
            whole = leaf.new_zeros(self.total, *leaf.shape[1:])
            whole[self.tasks] = leaf
            return whole

        return pytree.tree_map(of_all, distribution).sample(generator)[self.tasks]


class Ranks:
    """The processes that share a run, seen from one of them.

    Attributes:
        rank: Which one this is, from 0. The first one alone writes the record.
        size: How many there are.
        local_rank: Which one of its machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0):
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._has_told = size == 1

    def share(self, total: int) -> Share:
        """This rank's share of `total` tasks."""
        return Share(self.rank, self.size, total)

    def device(self, name: str) -> torch.device:
        """The device of a setting: for `"cuda"`, a GPU for each rank of a machine, where there are several."""
        if self.size > 1 and name == "cuda" and torch.cuda.device_count() > 1:
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return torch.device(name)

    def sum(self, parts: Sequence[Any]) -> Any:
        """The sum of the parts that all ranks have, trees of tensors and numbers of one form.

        The first part of each rank comes first, then the second of each, and so on: if each is of one task of a
        `Share`, the sum is to the last bit that of one process. A rank must have a part, which may be zeros.
        """
        everything = parts if self.size == 1 else self._of_all(parts)
        return functools.reduce(functools.partial(pytree.tree_map, operator.add), everything)

    def mean(self, tree: Any, total: int) -> Any:
        """The mean of every leaf `[tasks, ...]` over the `total` tasks of all ranks."""
        if self.size == 1:
            return pytree.tree_map(lambda leaf: leaf.mean(0), tree)
        sums = self.sum([pytree.tree_map(lambda leaf: leaf.sum(0), tree)])
        return pytree.tree_map(lambda leaf: leaf / total, sums)

    def largest(self, value: int) -> int:
        """The largest of what the ranks have."""
        return value if self.size == 1 else max(self._gathered(value))

    def first(self, tree: Any) -> Any:
        """A tree of tensors and numbers as the first rank has it; all have the same form."""
        if self.size == 1:
            return tree
        flat = _flatten(tree)
        with self._noticing():
            dist.broadcast(flat, 0)
        return _unflatten(flat, tree)

    def require_equal(self, tree: Any, what: str) -> None:
        """Raises RankLostError unless all ranks have the same tensors, to the last bit."""
        if self.size == 1:
            return
        checksum = 0
        for leaf in pytree.tree_leaves(tree):
            checksum = zlib.crc32(leaf.detach().cpu().numpy().tobytes(), checksum)
        if len(set(self._gathered(checksum))) > 1:
            raise RankLostError(
                f"{what}: the {self.size} ranks have different numbers. Their machines compute differently: let all "
                "have the same kind of processor (in a profile for Slurm: constraint) and the same versions"
            )

    def tell(self, order: Mapping[str, Any] | None) -> None:
        """Says once, as the first rank, what all are to do (JSON); None: nothing. What is said later is not sent."""
        if not self._has_told:
            self._has_told = True
            self._text(json.dumps(order))

    def told(self) -> Any:
        """Returns the object that the first rank has sent."""
        return json.loads(self._text(""))

    def leave(self) -> None:
        """Sends away the ranks that wait for something to do, if this is the first one, and closes the connections."""
        if self.size > 1 and dist.is_initialized():
            if self.rank == 0:
                with contextlib.suppress(RankLostError):
                    self.tell(None)
            dist.destroy_process_group()  # left to the end of the interpreter, gloo's threads may abort it

    def _text(self, text: str) -> str:
        with self._noticing():
            content = torch.tensor(list(text.encode()), dtype=torch.uint8)
            length = torch.tensor(len(content))
            dist.broadcast(length, 0)
            content = content if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(content, 0)
        return bytes(content.tolist()).decode()

    def _gathered(self, value: int) -> list[int]:
        own = torch.zeros(self.size, dtype=torch.int64)
        own[self.rank] = value
        with self._noticing():
            dist.all_reduce(own)
        return [int(each) for each in own]

    def _of_all(self, parts: Sequence[Any]) -> list[Any]:
        """The parts of all ranks, in the order of `sum`."""
        counts = self._gathered(len(parts))
        own = torch.stack([_flatten(part) for part in parts])
        padded = torch.cat([own, own.new_zeros(max(counts) - len(parts), own.shape[1])])
        found = [torch.empty_like(padded) for _ in counts]
        with self._noticing():
            dist.all_gather(found, padded)
        rows = (found[rank][k] for k in range(max(counts)) for rank, count in enumerate(counts) if k < count)
        return [_unflatten(row, parts[0]) for row in rows]

    @contextlib.contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch's errors of connections are such
            reason = str(error).splitlines()[0]
            raise RankLostError(
                f"rank {self.rank} of {self.size} has lost another one, which died or was silent for "
                f"{timeout():.0f} s ({TIMEOUT}). The run ends here and can be resumed. ({reason})"
            ) from error


ALONE = Ranks()
"""The process that has no others."""


def timeout() -> float:
    """Seconds that a rank waits for another. Raises ValueError if METAPOLICY_RANK_TIMEOUT is no such number."""
    given = os.environ.get(TIMEOUT, "300")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ValueError(f"{TIMEOUT}={given!r}: need a number of seconds above 0")
    return seconds


def join() -> Ranks:
    """Finds the processes that `torchrun` or `srun` has started beside this one; `ALONE` if there are none.

    Raises:
        RankLostError: They were not all there in time.
    """
    place = find_place(os.environ)
    if place is None:
        return ALONE
    ranks = Ranks(place.rank, place.size, place.local_rank)
    patience = datetime.timedelta(seconds=timeout())
    with ranks._noticing():
        # No backend is named: gloo serves what is on the CPU, and NCCL what is on a GPU.
        dist.init_process_group(init_method=place.url, rank=place.rank, world_size=place.size, timeout=patience)
    return ranks


class Place(NamedTuple):
    """The rank of a process, the number of ranks, its rank on its machine, and the address where all meet."""

    rank: int
    size: int
    local_rank: int
    url: str


def find_place(environment: Mapping[str, str]) -> Place | None:
    """Returns the place that torchrun or srun gave this process; None if it is the only one.

    A step of Slurm counts, and not its job: the batch script of a job with several tasks is no rank.
    """
    if int(environment.get("WORLD_SIZE", 1)) > 1:
        local_rank = int(environment.get("LOCAL_RANK", 0))
        return Place(int(environment["RANK"]), int(environment["WORLD_SIZE"]), local_rank, "env://")
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        step = f"{environment['SLURM_JOB_ID']}.{environment['SLURM_STEP_ID']}"
        port = environment.get("MASTER_PORT", 20000 + zlib.crc32(step.encode()) % 10000)  # below those of the system
        host = environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"])
        rank, size, local_rank = (int(environment[f"SLURM_{name}"]) for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID"))
        return Place(rank, size, local_rank, f"tcp://{host}:{port}")
    return None


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: `node[08-11,15],other` → `node08`."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[([^\]]*)\]", lambda found: re.split("[-,]", found[1])[0], first)


def _flatten(tree: Any) -> Tensor:
    """All leaves in one vector, of their widest type; numbers are float64."""
    leaves = pytree.tree_leaves(tree)
    leaves = [leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, dtype=torch.float64) for leaf in leaves]
    device = next((leaf.device for leaf in leaves if leaf.device.type != "cpu"), torch.device("cpu"))
    return torch.cat([leaf.detach().to(device).flatten() for leaf in leaves])


def _unflatten(flat: Tensor, like: Any) -> Any:
    """The inverse of `_flatten`, for a tree like `like`."""
    leaves, form = pytree.tree_flatten(like)
    pieces = flat.split([leaf.numel() if isinstance(leaf, Tensor) else 1 for leaf in leaves])
    found = [
        piece.view(leaf.shape).to(leaf.device, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf)(piece.item())
        for leaf, piece in zip(leaves, pieces, strict=True)
    ]
    return pytree.tree_unflatten(found, form)
