"""An algorithm of each family on a pretended GPU: it gives the CPU's numbers, and does nothing that CUDA refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from research.tracking.session import _prepare_process

ROOT = Path(__file__).parents[2]

# Not reproducible on CUDA by themselves, and why they are allowed; docs/troubleshooting.md has the exceptions.
EXACT = {"scatter_add"}  # the derivative of `gather`, which adds one number to each element
SUMS = {"scatter_add"}  # of rewards over episodes, for reports alone
DETERMINISTIC = {"embedding_dense_backward"}  # under torch.use_deterministic_algorithms, which runs ask for

CASES: dict[str, set[str]] = {
    "maml_trpo/meta_sgd_func": set(),
    "maml_trpo/grid_goals": EXACT,
    "maml_ppo/dice_grid_goals": EXACT | {"cumsum"},
    "reptile/constant_rate": set(),
    "maml_regression/anil": set(),
    "rl2/ppo_tabular": EXACT | SUMS | DETERMINISTIC,
    "lookahead_games/learned": set(),
    "lookahead_dqn/rainbow": EXACT,
    "maml_dqn/meta_sgd": EXACT,
}

PER_STEP = {
    "maml_trpo/meta_sgd_func": {"sampling/collect.py begin_step"},
    "rl2/ppo_tabular": {"sampling/trials.py collect_trials"},
}
"""Where the host waits for actions, which go to the environments; other waits belong to an iteration."""

IN_CI = ("maml_trpo/meta_sgd_func", "maml_dqn/meta_sgd")  # `make slow` has all: two minutes of one core


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(ROOT / path) for path in ("", "tests/support", "tests/golden"))
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    "case", [case if case in IN_CI else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_a_run_gives_the_numbers_of_the_cpu_with_reproducible_operations_and_few_waits(case: str) -> None:
    """In a process that knows the device."""
    done = python(str(ROOT / "tests/support/pretended_gpu.py"), case)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)[case]
    assert found["difference"] < 1e-9
    assert {name.split()[0].rstrip("_") for name in found["irreproducible"]} <= CASES[case]
    if case in PER_STEP:
        assert {name for name in found["waits"] if name.startswith("sampling/")} == PER_STEP[case]


def test_a_run_on_a_gpu_asks_for_deterministic_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device "meta" can be used everywhere, and is no CPU."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    threads = torch.get_num_threads()
    try:
        _prepare_process(types.SimpleNamespace(device="cpu"))
        assert not torch.are_deterministic_algorithms_enabled()
        _prepare_process(types.SimpleNamespace(device="meta"))
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


REFUSED = {
    "values to NumPy": "torch.ones(2, device='gpu').numpy()",
    "a mixture of devices": "torch.ones(2, device='gpu') + torch.ones(2)",
    "a generator of the CPU": "torch.rand(2, device='gpu', generator=torch.Generator())",
}


@pytest.mark.thorough
def test_the_pretended_device_refuses_what_cuda_refuses() -> None:
    lines = [
        "import pretended_gpu, torch",
        "pretended_gpu.install()",
        "device = pretended_gpu.Device()",
        "device.__enter__()",
    ]
    for code in REFUSED.values():
        lines += ["try:", f"    {code}", "except (RuntimeError, TypeError) as error: print(str(error).split(':')[0])"]
    lines += ["x = torch.arange(3.0, device='gpu')", "assert (x[x > 0] * torch.tensor(2.0)).tolist() == [2.0, 4.0]"]
    lines += ["print(sum(pretended_gpu.waits.values()))"]
    done = python("-c", "\n".join(lines))
    assert done.stdout.splitlines() == [
        "can't convert a tensor of the device to numpy",
        "expected all tensors to be on the same device, gpu and cpu",
        "expected a generator of gpu, not of the CPU",
        "2",  # a mask, and the list
    ], done.stderr
