"""Ranks come to what one process comes to: the same tasks, the same draws, the same sums."""

from __future__ import annotations

import numpy as np
import pytest
import rank_cases
import torch

from research import rng
from research.algorithms.gradient.maml_trpo import MAMLTRPO
from research.distributed import ALONE, Place, Ranks, Share, find_place, first_host, timeout
from research.distributions import Categorical, DiagGaussian
from research.per_task import expand, take
from research.sampling.collect import collect


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    """What each case comes to with 2 and with 3 ranks."""
    return rank_cases.train_in([2, 3], tmp_path_factory.mktemp("ranks"))


@pytest.mark.thorough
@pytest.mark.parametrize("name", rank_cases.NAMES)
def test_ranks_come_to_what_one_process_comes_to(of_ranks, name):
    """20 tasks in one process are 10 on each of 2 ranks, and 7, 7 and 6 on 3; 7 tasks are 4 and 3, or 3, 2 and 2."""
    params, metrics = rank_cases.train(name)
    for size in (2, 3):
        theirs, their_metrics = of_ranks[size][name]
        np.testing.assert_allclose(theirs, params, rtol=0, atol=0 if name == rank_cases.EXACT else 1e-10)
        assert their_metrics.keys() == metrics.keys()
        np.testing.assert_allclose(
            [their_metrics[key] for key in metrics], list(metrics.values()), rtol=1e-9, atol=1e-10
        )


@pytest.mark.thorough
def test_ranks_exchange_what_they_have_and_notice_when_it_differs(of_ranks):
    for size in (2, 3):
        found = of_ranks[size]["exchanges"]
        assert found["largest"] == 10
        assert found["different"].startswith(f"numbers of one rank: the {size} ranks have different numbers")


@pytest.mark.parametrize(("total", "size"), [(20, 1), (20, 2), (20, 3), (7, 3), (3, 3), (5, 2)])
def test_shares_hold_each_task_once_and_differ_by_one_at_most(total, size):
    shares = [Ranks(rank, size).share(total) for rank in range(size)]
    held = [list(range(total)[share.tasks]) for share in shares]
    assert sorted(task for tasks in held for task in tasks) == list(range(total))
    assert [share.size for share in shares] == [len(tasks) for tasks in held]
    assert max(map(len, held)) - min(map(len, held)) <= 1


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_part_of_a_share_that_lies_in_a_range_is_a_share_of_the_range(size):
    tasks = list(range(11))
    for start, stop in ((0, 5), (5, 11), (4, 6), (3, 4), (0, 11)):
        for rank in range(size):
            share = Share(rank, size, 11)
            own, part = share.within(start, stop)
            expected = [task for task in tasks[share.tasks] if start <= task < stop]
            assert tasks[share.tasks][own] == tasks[start:stop][part.tasks] == expected
            assert part.size == len(expected) and part.total == stop - start


def test_rows_of_a_share_are_the_episodes_of_its_tasks():
    rows = Share(1, 2, 5).rows(3)
    assert rows.total == 15
    assert rows.number.tolist() == [3, 4, 5, 9, 10, 11]


@pytest.mark.parametrize(
    "distribution",
    [
        DiagGaussian(torch.linspace(-1, 1, 70).view(7, 5, 2), torch.linspace(-1, 0, 70).view(7, 5, 2)),
        Categorical(torch.linspace(-2, 2, 105).view(7, 5, 3)),
    ],
)
def test_a_share_samples_what_its_tasks_have_in_a_sample_for_all(distribution):
    everything = distribution.sample(rng.torch_generator(0, "test"))
    for rank in range(3):
        share = Share(rank, 3, 7)
        own = type(distribution)(*(leaf[share.tasks] for leaf in distribution))
        sampled = share.sample(own, rng.torch_generator(0, "test"))
        torch.testing.assert_close(sampled, everything[share.tasks], rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", ["cheetah_vel", "cartpole_params", "tabular_mdp"])
def test_a_share_collects_what_its_tasks_have_in_a_collection_for_all(task):
    """Robots move in two halves, each with draws of its own."""
    agent = MAMLTRPO(MAMLTRPO.Config(task=task, horizon=6, dtype="float64")).agent
    params = agent.init().model
    tasks = agent.tasks.sample(5, rng.generator(0, "tasks"))

    def collected(share):
        envs = agent.tasks.make_envs(take(tasks, share.tasks), 3)
        adapted = expand(params, share.size)
        found = collect(agent.policy, adapted, envs, share.size, 6, rng.torch_generator(0, "x"), 1, share)
        envs.close()
        return found

    whole = collected(Share(0, 1, 5))
    for size in (2, 3, 5):
        for rank in range(size):
            share = Share(rank, size, 5)
            for own, there in zip(collected(share), take(whole, share.tasks), strict=True):
                torch.testing.assert_close(own, there, rtol=0, atol=1e-9)


def test_more_ranks_than_tasks_are_refused():
    with pytest.raises(ValueError, match="meta_batch_size=2: need a task for each of the 3 ranks"):
        MAMLTRPO(MAMLTRPO.Config(meta_batch_size=2), Ranks(0, 3))


def test_a_process_that_is_alone_owns_all_and_exchanges_nothing():
    tree = {"x": torch.tensor([1.0, 3.0]), "count": 2}
    assert ALONE.sum([tree]) is tree and ALONE.broadcast(tree) is tree
    assert ALONE.sum([(1, 2.0), (3, 4.5)]) == (4, 6.5)
    assert ALONE.max(7) == 7
    assert torch.equal(ALONE.mean(tree["x"], 2), torch.tensor(2.0))
    assert ALONE.share(5) == Share(0, 1, 5)
    ALONE.require_equal(tree["x"], "nothing")
    ALONE.send_settings({"anything": 1})
    ALONE.leave()


_STEP = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "node[08-09],other",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


def test_the_environment_says_which_rank_this_is():
    torchrun = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert find_place(torchrun) == Place(1, 2, 1, "env://")
    found = find_place(_STEP)
    assert found is not None and found[:3] == (3, 4, 1)
    assert found.url.startswith("tcp://node08:") and 20000 <= int(found.url.rpartition(":")[2]) < 30000
    assert find_place({**_STEP, "SLURM_STEP_ID": "1"}) != found, "another step may still hold the port"
    assert find_place({**_STEP, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "99"}) == Place(3, 4, 1, "tcp://10.0.0.1:99")
    assert find_place({}) is None
    assert find_place({"WORLD_SIZE": "1", "RANK": "0"}) is None
    assert find_place({**_STEP, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert find_place({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "17"}) is None, "a batch script"


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("alone", "alone"),
        ("a,b", "a"),
        ("node[08-11,15],other", "node08"),
        ("r[3,5]n[01-02]", "r3n01"),
        ("gpu-a[7]", "gpu-a7"),
    ],
)
def test_the_first_host_of_a_list(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("METAPOLICY_RANK_TIMEOUT", value)
    with pytest.raises(ValueError, match=r"METAPOLICY_RANK_TIMEOUT='.*': need a number of seconds above 0"):
        timeout()
