"""Several processes are one run: one record, one end, whoever of them is stopped or killed."""

from __future__ import annotations

import json

import pytest
import rank_lives
import torch

from research.tracking.records import read_metrics

ENSURE = [
    *("maml_trpo", "ensure", "with", "run=1", "num_iterations=40", "checkpoint_interval=1", "eval_interval=15"),
    *("meta_batch_size=3", "episodes_per_task=2", "horizon=10", "num_eval_tasks=2", "num_adapt_steps=1"),
    *("eval_episodes=2", "num_threads=1", "dtype=float64", "policy.hidden_sizes=[8]"),
]
STATED = 10.0
"""Seconds within which a run whose rank was killed has ended; its connections break at once."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("lives")


@pytest.fixture(scope="module")
def lives(directory):
    """A run that is ended three times and completed; an uninterrupted one; one that is refused."""
    return rank_lives.live(
        [
            {"arguments": ENSURE, "size": 2, "signal": "SIGKILL", "rank": 1},
            {"arguments": ENSURE, "size": 2, "signal": "SIGKILL", "rank": 0},
            {"arguments": ENSURE, "size": 2, "signal": "SIGTERM", "rank": 1},
            {"arguments": ENSURE, "size": 2},
            {"arguments": ENSURE, "size": 2},
            {"arguments": [*ENSURE, "run=2"], "size": 2},
            {"arguments": ["maml_trpo", "evaluate", "with", "run=1", "num_eval_tasks=1"], "size": 2},
            {"arguments": ["maml_trpo", "with", "meta_batch_size=1"], "size": 2},
            {"arguments": ["rl2", "with", "fast"], "size": 2},
            {"arguments": [*ENSURE[:2], "--stop-at=7", *ENSURE[2:], "run=9"], "size": 2},
            {"arguments": [*ENSURE[:2], "--stop-at=17", *ENSURE[2:], "run=9"], "size": 2},
        ],
        directory,
    )


def test_a_run_whose_second_rank_is_killed_fails_at_once_and_can_go_on(lives):
    life = lives[0]
    assert life["codes"] == [1, -9]
    assert life["status"] == "FAILED"
    assert life["seconds"] < STATED
    assert "rank 0 of 2 has lost another one" in life["output"][0]


def test_a_run_whose_first_rank_is_killed_stops_at_once_and_can_go_on(lives):
    life = lives[1]
    assert life["codes"] == [-9, 1]
    assert life["status"] == "RUNNING"
    assert life["seconds"] < STATED
    assert "error: rank 1 of 2 has lost another one" in life["output"][1]


def test_a_signal_to_any_rank_stops_all_and_saves(lives):
    life = lives[2]
    assert life["codes"] == [143, 0]
    assert life["status"] == "INTERRUPTED"


def test_one_record_has_each_step_once_and_the_parameters_of_a_run_that_was_never_stopped(lives, directory):
    assert [lives[k]["codes"] for k in (3, 4, 5)] == [[0, 0]] * 3
    assert lives[3]["status"] == "COMPLETED"
    assert "is complete, nothing is left to do" in lives[4]["output"][0]
    records = sorted(path.name for path in (directory / "runs").glob("[0-9]*"))
    assert records[:2] == ["1", "2"]
    metrics = [read_metrics(directory / "runs" / run) for run in ("1", "2")]
    for found in metrics:
        assert found["loss_after"].steps.tolist() == list(range(1, 41))
        assert found["eval/score_after_0"].steps.tolist() == [15, 30]
    assert metrics[0]["loss_after"].values.tolist() == metrics[1]["loss_after"].values.tolist()
    finished = [torch.load(directory / f"runs/{run}/checkpoints/latest.pt", weights_only=True) for run in (1, 2)]
    first, second = (torch.utils._pytree.tree_leaves(state["state"]) for state in finished)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(first, second, strict=True))


def test_ranks_beyond_the_first_say_nothing(lives):
    assert [lives[k]["output"][1] for k in (2, 3, 4, 5, 6)] == [""] * 5
    assert lives[6]["codes"] == [0, 0], "an evaluation is the first one's"


def test_what_cannot_be_is_refused_by_the_first_rank_and_the_others_leave(lives):
    for life, message in (
        (lives[7], "error: meta_batch_size=1: need a task for each of the 2 ranks, or fewer ranks"),
        (lives[8], "error: 2 processes were started for one run, and rl2 trains in one"),
    ):
        assert life["codes"] == [2, 0]
        assert message in life["output"][0]


def test_all_ranks_stop_at_the_iteration_that_the_first_is_given(lives, directory):
    assert [life["codes"] for life in lives[9:11]] == [[0, 0]] * 2
    assert json.loads((directory / "runs" / "9" / "run.json").read_text())["status"] == "INTERRUPTED"
    metrics = [read_metrics(directory / "runs" / run)["loss_after"].values.tolist() for run in ("2", "9")]
    assert metrics[1] == metrics[0][:17]


def test_the_record_names_the_error(lives, directory):
    record = json.loads((directory / "runs" / "1" / "run.json").read_text())
    assert record["status"] == "COMPLETED"
    assert len(record["resumed"]) == 3
