"""Small runs for the notebooks: real records of every kind that they read, in seconds each.

    python experiments/small_runs.py build/notebooks/runs 01_first_run 04_rl2_regret
    python experiments/small_runs.py build/notebooks/runs

Existing runs are not made again. The settings are those of the notebooks, with smaller sizes; the results mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_NAVIGATION = (
    "navigation_2d num_threads=1 num_iterations=10 eval_interval=2 meta_batch_size=6 episodes_per_task=6 horizon=20 "
    "policy.hidden_sizes=[16] num_eval_tasks=10 eval_episodes=10"
)
_GRID = "num_eval_tasks=8 horizon=20"
_CARTPOLE = (
    "cartpole num_iterations=6 phases_per_iteration=2 network.hidden_sizes=[32] eval_interval=1 eval_episodes=5 "
    "num_eval_tasks=4"
)
LINES: dict[str, dict[str, int]] = {
    "01_first_run": {f"maml_trpo -c first_run with {_NAVIGATION}": 5},
    "02_compare_algorithms": {
        f"maml_trpo -c compare with {_NAVIGATION}": 3,
        f"maml_ppo -c compare with {_NAVIGATION}": 3,
        f"reptile -c compare with {_NAVIGATION}": 3,
    },
    "03_adaptation_curves": {
        f"maml_trpo -c adaptation with task=grid_goals {_GRID} num_threads=1 num_iterations=5 meta_batch_size=10 "
        "episodes_per_task=10 policy.hidden_sizes=[16] eval_episodes=10": 3,
        f"rl2 -c adaptation with task=grid_goals {_GRID} num_threads=1 num_iterations=5 meta_batch_size=40 "
        "episodes_per_trial=4 policy.hidden_size=16 eval_trials=10": 3,
        f"lookahead_dqn -c adaptation with grid_goals_reptile {_GRID} discounted_score=False num_iterations=3 "
        "meta_batch_size=3 num_inner_steps=30 eval_episodes=50 eval_interval=0": 3,
    },
    "04_rl2_regret": {
        "rl2 -c regret with bandit_k5_n10 num_threads=1 num_iterations=12 meta_batch_size=200 num_eval_tasks=500 "
        "policy.hidden_size=16 eval_interval=3": 5,
    },
    "05_lookahead": {
        "lookahead_games -c lookahead with rock_paper_scissors num_adapt_steps=40": 3,
        "lookahead_games -c lookahead with rock_paper_scissors num_adapt_steps=40 lookahead_alpha=1": 3,
        f"lookahead_dqn -c lookahead with {_CARTPOLE}": 3,
        f"lookahead_dqn -c lookahead with {_CARTPOLE} fast_slow": 3,
    },
    "06_meta_gradient_bias": {
        f"maml_ppo -c bias with {_NAVIGATION} estimator={estimator}": 3
        for estimator in ("maml", "e_maml", "dice", "lvc")
    },
    "07_sweep_triage": {},
}
"""By notebook: command lines without a seed, and the number of seeds of each."""

SWEEP = """\
experiment: maml_ppo
named_configs: [fast]
fixed: {num_threads: 1}
grid:
  meta_lr: [0.003, 0.03, 1.0e+30]
seeds: 3
"""


def make(name: str, directory: Path) -> None:
    """Makes the runs of a notebook, unless they exist; waits for another process that makes them."""
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / f".{name}") as done:
        if done.exists():
            return
        for line, seeds in LINES[name].items():
            for seed in range(seeds):
                _train(*shlex.split(f"{line} seed={seed}"), f"runs_dir={directory}")
        if name == "07_sweep_triage":
            _sweep(directory)
        done.touch()


def _train(experiment: str, *arguments: str) -> None:
    module = importlib.import_module(f"experiments.{experiment}")
    module.experiment.run_commandline([module.__file__, *arguments])


def _sweep(directory: Path) -> None:
    """Makes a sweep with a setting that fails, and deletes the record of one run."""
    file = directory / "ppo_rates.yaml"
    file.write_text(SWEEP, encoding="utf-8")
    command = [sys.executable, "-m", "slurm", "submit", str(file), "--local", "-j", "2", "--no-snapshot"]
    subprocess.run([*command, "--runs-dir", str(directory)], cwd=ROOT, check=False)  # some runs fail on purpose
    manifest = directory / "_sweeps" / "ppo_rates-1" / "manifest.jsonl"
    first = json.loads(manifest.read_text(encoding="utf-8").splitlines()[0])["run"]
    shutil.rmtree(directory / str(first))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Locks the work on a path against other processes; yields the path of the file that marks finished work."""
    with path.with_suffix(".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path.with_suffix(".made")


def main(argv: Sequence[str]) -> int:
    """Makes the runs of the named notebooks. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where runs are made")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"for which notebooks (all): {', '.join(LINES)}")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.names if name not in LINES]:
        parser.error(f"{', '.join(unknown)}: no such notebook; there are {', '.join(LINES)}")
    import torch  # here: help comes at once

    torch.set_num_threads(1)
    for name in arguments.names or LINES:
        make(name, arguments.directory.absolute())
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
