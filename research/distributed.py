"""Several processes (ranks) that share the tasks of a meta-batch: the tasks of each rank, and sums over all tasks.

`srun` or `torchrun` starts the same program once for each rank, and `join` connects them. An algorithm works on the
share of its rank and sums over all ranks with `Ranks.sum`; every rank computes everything that follows from the sums.
`ALONE` is a process without others.

Sums are in the order of the tasks, whichever ranks have them. An all-reduce would send less but add in another order;
that changes the last bit, of which conjugate gradient makes 1e-5. Policies are small, so little is sent in either case.

All ranks take part in every exchange, in the same order. The end of another rank is noticed at once by its closed
connections, and the silence of one whose machine has failed after `TIMEOUT` seconds.
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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from research.rng import Rows

if TYPE_CHECKING:  # the functions import what they use: one process that prints help needs no torch
    import torch
    from torch import Tensor

TIMEOUT = "METAPOLICY_RANK_TIMEOUT"
"""Environment variable with the seconds that a rank waits for another one; by default 300."""


class RankLostError(RuntimeError):
    """Another rank has ended, was silent for too long, or has computed other numbers."""


class Share(NamedTuple):
    """Every `step`-th of `total` tasks from task `first` on, so that a rank has a share of any range of tasks, too."""

    first: int
    step: int
    total: int

    @property
    def tasks(self) -> slice:
        """The positions of the tasks among all tasks."""
        return slice(self.first, self.total, self.step)

    @property
    def size(self) -> int:
        """Number of tasks in the share."""
        return len(range(self.total)[self.tasks])

    def within(self, start: int, stop: int) -> tuple[slice, Share]:
        """Returns the positions in this share of all tasks from `start` to `stop`, and the share of that range."""
        begin, end = (len(range(self.first, bound, self.step)) for bound in (start, stop))
        return slice(begin, end), Share(self.first + begin * self.step - start, self.step, stop - start)

    def rows(self, episodes: int) -> Rows:
        """Returns the rows of environments with `episodes` rows for each task."""
        tasks = np.arange(self.total)[self.tasks]
        return Rows((tasks[:, None] * episodes + np.arange(episodes)).ravel(), self.total * episodes)

    def sample(self, distribution: Any, generator: torch.Generator) -> Tensor:
        """Returns the actions of this share in a sample for all tasks. `distribution` is that of this share."""
        if self.step == 1:
            return distribution.sample(generator)

        def of_all(leaf: Tensor) -> Tensor:
            whole = leaf.new_zeros(self.total, *leaf.shape[1:])
            whole[self.tasks] = leaf
            return whole

        from torch.utils import _pytree as pytree

        return pytree.tree_map(of_all, distribution).sample(generator)[self.tasks]


class Ranks:
    """The processes that share a run.

    Attributes:
        rank: Number of this process, from 0. Only process 0 writes the record.
        size: Number of processes.
        local_rank: Number of this process on its machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0):
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._has_sent = size == 1

    def share(self, total: int) -> Share:
        """Returns the share of this rank in `total` tasks."""
        return Share(self.rank, self.size, total)

    def device(self, name: str) -> torch.device:
        """Returns the device of a setting; `"cuda"` is another GPU for each rank of a machine with several."""
        import torch

        if self.size > 1 and name == "cuda" and torch.cuda.device_count() > 1:
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return torch.device(name)

    def sum(self, parts: Sequence[Any]) -> Any:
        """Returns the sum of the parts of all ranks, which are trees of tensors and numbers of one structure.

        The order is: the first part of each rank, then the second part of each rank, and so on. If every part belongs
        to one task of a `Share`, the sum equals that of one process to the last bit. Every rank must have at least one
        part, which may be zeros.
        """
        from torch.utils import _pytree as pytree

        everything = parts if self.size == 1 else self._all_gather(parts)
        return functools.reduce(functools.partial(pytree.tree_map, operator.add), everything)

    def mean(self, tree: Any, total: int) -> Any:
        """Returns the mean of every leaf `[tasks, ...]` over the `total` tasks of all ranks."""
        from torch.utils import _pytree as pytree

        if self.size == 1:
            return pytree.tree_map(lambda leaf: leaf.mean(0), tree)
        sums = self.sum([pytree.tree_map(lambda leaf: leaf.sum(0), tree)])
        return pytree.tree_map(lambda leaf: leaf / total, sums)

    def max(self, value: int) -> int:
        """Returns the largest of the values of all ranks."""
        return value if self.size == 1 else max(self._all_values(value))

    def broadcast(self, tree: Any) -> Any:
        """Returns the tree of tensors and numbers of rank 0; those of all ranks have the same structure."""
        if self.size == 1:
            return tree
        import torch.distributed as dist

        flat = _flatten(tree)
        with self._detecting_loss():
            dist.broadcast(flat, 0)
        return _unflatten(flat, tree)

    def require_equal(self, tree: Any, what: str) -> None:
        """Raises RankLostError if the tensors of two ranks differ in any bit. `what` names them in the message."""
        if self.size == 1:
            return
        from torch.utils import _pytree as pytree

        checksum = 0
        for leaf in pytree.tree_leaves(tree):
            checksum = zlib.crc32(leaf.detach().cpu().numpy().tobytes(), checksum)
        if len(set(self._all_values(checksum))) > 1:
            raise RankLostError(
                f"{what}: the {self.size} ranks have different numbers. Their machines compute differently: let all "
                "have the same kind of processor (in a profile for Slurm: constraint) and the same versions"
            )

    def send_settings(self, settings: Mapping[str, Any] | None) -> None:
        """Sends the settings of a run and its last iteration (JSON) from rank 0 to the others; None: no work is there.

        Only the first call sends something.
        """
        if not self._has_sent:
            self._has_sent = True
            self._broadcast_text(json.dumps(settings))

    def receive_settings(self) -> Any:
        """Returns the settings that rank 0 sends, or None."""
        return json.loads(self._broadcast_text(""))

    def leave(self) -> None:
        """Closes the connections. Rank 0 dismisses ranks that still wait for settings."""
        if self.size == 1:
            return
        import torch.distributed as dist

        if dist.is_initialized():
            if self.rank == 0:
                with contextlib.suppress(RankLostError):
                    self.send_settings(None)
            dist.destroy_process_group()  # at the end of the interpreter, gloo's threads may abort it

    def _broadcast_text(self, text: str) -> str:
        import torch
        import torch.distributed as dist

        with self._detecting_loss():
            content = torch.tensor(list(text.encode()), dtype=torch.uint8)
            length = torch.tensor(len(content))
            dist.broadcast(length, 0)
            content = content if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(content, 0)
        return bytes(content.tolist()).decode()

    def _all_values(self, value: int) -> list[int]:
        import torch
        import torch.distributed as dist

        own = torch.zeros(self.size, dtype=torch.int64)
        own[self.rank] = value
        with self._detecting_loss():
            dist.all_reduce(own)
        return [int(each) for each in own]

    def _all_gather(self, parts: Sequence[Any]) -> list[Any]:
        """Returns the parts of all ranks in the order of `sum`."""
        import torch
        import torch.distributed as dist

        counts = self._all_values(len(parts))
        own = torch.stack([_flatten(part) for part in parts])
        padded = torch.cat([own, own.new_zeros(max(counts) - len(parts), own.shape[1])])
        found = [torch.empty_like(padded) for _ in counts]
        with self._detecting_loss():
            dist.all_gather(found, padded)
        rows = (found[rank][k] for k in range(max(counts)) for rank, count in enumerate(counts) if k < count)
        return [_unflatten(row, parts[0]) for row in rows]

    @contextlib.contextmanager
    def _detecting_loss(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the type of torch's errors of connections
            reason = str(error).splitlines()[0]
            raise RankLostError(
                f"rank {self.rank} of {self.size} has lost another one, which died or was silent for "
                f"{timeout():.0f} s ({TIMEOUT}). The run ends here and can be resumed. ({reason})"
            ) from error


ALONE = Ranks()
"""A process without others."""


def timeout() -> float:
    """Returns the seconds that a rank waits for another one. Raises ValueError if the variable is no such number."""
    given = os.environ.get(TIMEOUT, "300")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ValueError(f"{TIMEOUT}={given!r}: need a number of seconds above 0")
    return seconds


def join() -> Ranks:
    """Connects the processes that `torchrun` or `srun` has started together; returns `ALONE` for a single process.

    Raises:
        RankLostError: A process did not connect in time.
    """
    place = find_place(os.environ)
    if place is None:
        return ALONE
    import torch.distributed as dist

    ranks = Ranks(place.rank, place.size, place.local_rank)
    patience = datetime.timedelta(seconds=timeout())
    with ranks._detecting_loss():
        # Without a name of a backend, gloo serves tensors on the CPU and NCCL those on a GPU.
        dist.init_process_group(init_method=place.url, rank=place.rank, world_size=place.size, timeout=patience)
    return ranks


class Place(NamedTuple):
    """The position of a process: its rank, the number of ranks, its rank on the machine, and the common address."""

    rank: int
    size: int
    local_rank: int
    url: str


def find_place(environment: Mapping[str, str]) -> Place | None:
    """Returns the position of this process by the variables of torchrun or srun; None if it is the only one.

    The variables of a Slurm step count, not those of its job: the batch script of a job with several tasks is no rank.
    """
    if int(environment.get("WORLD_SIZE", 1)) > 1:
        local_rank = int(environment.get("LOCAL_RANK", 0))
        return Place(int(environment["RANK"]), int(environment["WORLD_SIZE"]), local_rank, "env://")
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        step = f"{environment['SLURM_JOB_ID']}.{environment['SLURM_STEP_ID']}"
        port = environment.get("MASTER_PORT", 20000 + zlib.crc32(step.encode()) % 10000)  # below the ephemeral ports
        host = environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"])
        rank, size, local_rank = (int(environment[f"SLURM_{name}"]) for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID"))
        return Place(rank, size, local_rank, f"tcp://{host}:{port}")
    return None


def first_host(nodes: str) -> str:
    """Returns the first host of a list in Slurm's notation.

    >>> first_host("node[08-11,15],other")
    'node08'
    """
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[([^\]]*)\]", lambda found: re.split("[-,]", found[1])[0], first)


def _flatten(tree: Any) -> Tensor:
    """Returns all leaves as one vector of their widest type; numbers count as float64."""
    import torch
    from torch import Tensor
    from torch.utils import _pytree as pytree

    leaves = pytree.tree_leaves(tree)
    leaves = [leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, dtype=torch.float64) for leaf in leaves]
    device = next((leaf.device for leaf in leaves if leaf.device.type != "cpu"), torch.device("cpu"))
    return torch.cat([leaf.detach().to(device).flatten() for leaf in leaves])


def _unflatten(flat: Tensor, like: Any) -> Any:
    """Returns the inverse of `_flatten`: a tree with the structure of `like`."""
    from torch import Tensor
    from torch.utils import _pytree as pytree

    leaves, form = pytree.tree_flatten(like)
    pieces = flat.split([leaf.numel() if isinstance(leaf, Tensor) else 1 for leaf in leaves])
    found = [
        piece.view(leaf.shape).to(leaf.device, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf)(piece.item())
        for leaf, piece in zip(leaves, pieces, strict=True)
    ]
    return pytree.tree_unflatten(found, form)
