"""Small trainings that one process and several ranks must carry out alike, and a way to carry them out as ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from research.algorithms import ALGORITHMS
from research.distributed import ALONE, RankLostError, Ranks, join
from research.policies import PolicyConfig
from research.tasks import TASKS

_ITERATIONS = 2
_COMMON: dict[str, Any] = {
    "dtype": "float64",
    "meta_batch_size": 20,
    "episodes_per_task": 3,
    "horizon": 10,
    "policy": PolicyConfig(hidden_sizes=(8,)),
    "num_threads": 1,
}
_PPO = {"num_epochs": 2}
_LARGE = {"episodes_per_task": 55, "horizon": 20}
"""So many steps that the inner loop treats each task on its own, as with the settings of papers."""

EXACT = "maml_trpo"
"""The case whose parameters are to be the same to the last bit."""

_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    EXACT: ("maml_trpo", {**_LARGE, "learn_inner_lr": "per_step"}),
    "maml_ppo": (
        "maml_ppo",
        {**_PPO, "num_minibatches": 3, "adaptive_kl": True, "target_kl": 1e-4, "num_inner_steps": 2},
    ),
    "e_maml": ("maml_ppo", {**_PPO, "estimator": "e_maml", "task": "cartpole_params", "max_grad_norm": 0.01}),
    "fewer tasks than ranks in a minibatch": ("maml_ppo", {**_PPO, "meta_batch_size": 4, "num_minibatches": 3}),
    "fomaml": ("fomaml", {"task": "bandit", "horizon": 1, "meta_batch_size": 7}),
    "reptile": ("reptile", {"task": "tabular_mdp", "meta_batch_size": 7}),
}


def train(name: str, ranks: Ranks = ALONE) -> tuple[list[float], dict[str, float]]:
    """Parameters and the metrics of all iterations. Raises RankLostError if ranks end with other parameters."""
    algorithm, settings = _CASES[name]
    kind: Any = ALGORITHMS[algorithm]
    agent = kind(kind.Config(**_COMMON | settings), ranks)
    state, metrics = agent.init(), {}
    for iteration in range(_ITERATIONS):
        state, found = agent.step(state)
        metrics |= {f"{iteration}/{key}": value for key, value in found.items() if not key.startswith("time/")}
    ranks.require_equal(state.meta, "at the end")
    leaves = [leaf.flatten() for leaf in pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor)]
    return torch.cat(leaves).tolist(), metrics


def train_in(sizes: list[int], directory: Path) -> dict[int, dict[str, Any]]:
    """What each case comes to with so many ranks. One process imports everything and forks them."""
    command = [sys.executable, "-W", "ignore", __file__, str(directory), *map(str, sizes)]
    subprocess.run(command, check=True, timeout=280)
    return {size: json.loads((directory / f"{size}.json").read_text()) for size in sizes}


def place(rank: int, size: int, port: int) -> dict[str, str]:
    """The environment of a rank, as torchrun makes it."""
    ours = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {"METAPOLICY_RANK_TIMEOUT": "20"} | {key: str(value) for key, value in ours.items()}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _rank(directory: Path, rank: int, size: int, port: int) -> None:
    os.environ.update(place(rank, size, port))
    ranks = join()
    found: dict[str, Any] = {name: train(name, ranks) for name in _CASES}
    found["exchanges"] = _exchange(ranks)
    if rank == 0:
        (directory / f"{size}.json").write_text(json.dumps(found))
    ranks.leave()


def _exchange(ranks: Ranks) -> dict[str, Any]:
    """What the first rank sees of each way to exchange something. Each rank checks its own."""
    rank, size = ranks.rank, ranks.size
    tree = {"values": torch.arange(3, dtype=torch.float32) + rank / 3, "count": rank}
    first = ranks.broadcast(tree)
    assert first["values"].tolist() == [0, 1, 2] and first["count"] == 0
    assert first["values"].dtype == torch.float32
    assert ranks.sum([(rank, float(rank))] * (rank + 1)) == (sum(k * (k + 1) for k in range(size)),) * 2
    assert ranks.mean(torch.full((rank + 1, 2), 6.0), size * (size + 1) // 2).tolist() == [6, 6]
    ranks.require_equal({"x": torch.tensor([0.1])}, "equal numbers")
    try:
        ranks.require_equal({"x": torch.tensor([0.1 + (rank == 1) * 1e-7], dtype=torch.float64)}, "numbers of one rank")
        message = ""
    except RankLostError as error:
        message = str(error)
    order = {"text": "ü $(x)", "list": [1, None]}
    if rank == 0:
        ranks.send_settings(order)
        ranks.send_settings(None)  # too late
    else:
        assert ranks.receive_settings() == order
    return {"largest": ranks.max(10 - rank), "different": message}


def _main(directory: Path, sizes: list[int]) -> None:
    torch.set_num_threads(1)
    for algorithm, settings in _CASES.values():
        ALGORITHMS[algorithm], TASKS[settings.get("task", "navigation_2d")]
    for size in sizes:
        port, children = free_port(), []
        for rank in range(size):
            child = os.fork()
            if child == 0:
                _rank(directory, rank, size, port)
                os._exit(0)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert codes == [0] * size, codes


NAMES = tuple(_CASES)

if __name__ == "__main__":
    _main(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])
