"""The library against examples/maml_trpo_minimal.py: the same tasks, noise and initial parameters, in float64."""

import dataclasses

import pytest
import torch

from examples import maml_trpo_minimal as minimal
from research import rng
from research.algorithms.gradient.maml_trpo import MAMLTRPO, MAMLTRPOConfig, make_objective
from research.policies import PolicyConfig
from research.sampling.collect import collect

CONFIG = MAMLTRPOConfig(
    meta_batch_size=4,
    episodes_per_task=6,
    horizon=40,
    task_args={"done_radius": 0.1},  # some episodes end early
    policy=PolicyConfig(hidden_sizes=(8, 8)),
    inner_lr=tuple(minimal.INNER_LR),
    discount=minimal.DISCOUNT,
    gae_lambda=minimal.GAE_LAMBDA,
    max_kl=minimal.MAX_KL,
    cg_iterations=minimal.CG_ITERATIONS,
    cg_damping=minimal.CG_DAMPING,
    line_search_steps=minimal.LINE_SEARCH_STEPS,
    line_search_shrink=minimal.LINE_SEARCH_SHRINK,
    dtype="float64",
    num_threads=1,
)


@pytest.fixture
def same_settings(monkeypatch):
    monkeypatch.setattr(minimal, "EPISODES", CONFIG.episodes_per_task)
    monkeypatch.setattr(minimal, "HORIZON", CONFIG.horizon)
    monkeypatch.setattr(minimal, "DONE_RADIUS", CONFIG.task_args["done_radius"])


def params_of(model):
    """The library's parameters in the order of the example's."""
    assert list(model) == ["log_std", *(f"mean.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias"))]
    return [value.detach().clone().requires_grad_() for value in model.values()]


def batch_of(batch, task, params):
    """One task of the library's batch as the example's: the valid steps."""
    valid = batch.valid[task]
    observation, action, advantage = (leaf[task][valid] for leaf in (batch.observation, batch.action, batch.advantage))
    with torch.no_grad():
        old = minimal.policy(params, observation)
    torch.testing.assert_close(old.log_prob(action), batch.log_prob[task][valid], rtol=1e-12, atol=1e-12)
    return minimal.Batch(observation, action, advantage, old)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_episodes_and_advantages_are_the_same(seed, same_settings):
    algorithm = MAMLTRPO(dataclasses.replace(CONFIG, seed=seed))
    agent, meta = algorithm.agent, algorithm.init().meta
    task = agent.tasks.sample(1, rng.generator(seed, "tasks", 0))
    envs = agent.tasks.make_envs(task, CONFIG.episodes_per_task)
    params = agent.adapt(meta, [], 1)
    theirs = collect(agent.policy, params, envs, 1, CONFIG.horizon, torch.Generator().manual_seed(seed))
    ours = minimal.rollout(params_of(meta.model), torch.from_numpy(task.goal[0]), torch.Generator().manual_seed(seed))

    valid = ours.valid
    assert not valid.all(), "no episode has ended early"
    assert torch.equal(valid, theirs.valid[0]) and torch.equal(ours.terminated, theirs.terminated[0])
    # The environment's observations are float32, the example's float64.
    for mine, other in (
        (ours.position[:, :-1][valid], theirs.observation[0][valid]),
        (ours.position[:, -1], theirs.last_observation[0]),
        (ours.action[valid], theirs.action[0][valid]),
        (ours.reward, theirs.reward[0]),
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)

    # From here on the example reads the library's episodes.
    positions = torch.cat([theirs.observation[0], theirs.last_observation[0].unsqueeze(1)], 1)
    episodes = minimal.Episodes(positions, theirs.action[0], theirs.reward[0], theirs.terminated[0], theirs.valid[0])
    batch = minimal.make_batch(params_of(meta.model), episodes)
    expected = agent.process(theirs)
    torch.testing.assert_close(batch.advantage, expected.advantage[0][valid], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(batch.old.log_prob(batch.action), expected.log_prob[0][valid], rtol=1e-12, atol=1e-12)


@pytest.fixture(params=[1, 2], ids="{} inner steps".format, scope="module")
def update(request):
    """One iteration of the library, and the example's tasks with the library's episodes."""
    algorithm = MAMLTRPO(dataclasses.replace(CONFIG, num_inner_steps=request.param))
    state = algorithm.init()
    sampled = algorithm.agent.sample(state.meta, 0)
    assert not sampled.query.valid.all(), "no episode has ended early"
    params = params_of(state.meta.model)
    tasks = []
    for task in range(CONFIG.meta_batch_size):
        batches = []
        for batch in (*sampled.batches, sampled.query):
            batches.append(batch_of(batch, task, minimal.adapt(params, batches)))
        tasks.append(batches)
    return algorithm, state, sampled, params, tasks


def test_adapted_parameters_are_the_same(update):
    algorithm, state, sampled, params, tasks = update
    expected = algorithm.agent.adapt(state.meta, sampled.batches, len(tasks))
    for i, (*inner, _) in enumerate(tasks):
        for mine, theirs in zip(minimal.adapt(params, inner), expected.values(), strict=True):
            torch.testing.assert_close(mine, theirs[i], rtol=1e-10, atol=1e-12)


def test_loss_gradient_and_fisher_products_are_the_same(update):
    algorithm, state, sampled, params, tasks = update
    problem = make_objective(algorithm.agent, state.meta, sampled).problem()
    loss, gradient, product = minimal.derivatives(params, tasks)
    assert loss.item() == pytest.approx(problem.loss, rel=1e-10, abs=1e-12)
    torch.testing.assert_close(gradient, problem.gradient, rtol=1e-10, atol=1e-11)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        vector = torch.randn(len(gradient), generator=generator, dtype=gradient.dtype)
        damped = problem.fisher_product(vector) + CONFIG.cg_damping * vector
        # The library weighs steps by 1/n in float32. In float64 the two agree to 1e-10.
        torch.testing.assert_close(product(vector), damped, rtol=0, atol=1e-7 * float(damped.norm()))
    assert gradient.norm() > 1e-2 and (product(vector) - CONFIG.cg_damping * vector).norm() > 1e-2


def test_the_step_is_the_same(update):
    """To a millionth of its length: conjugate gradient multiplies the differences of the products."""
    algorithm, state, _, params, tasks = update
    moved = algorithm.step(state).state.meta.model
    stepped = minimal.trust_region_step(params, tasks)
    length = minimal.flatten(
        after - before.detach() for after, before in zip(moved.values(), params, strict=True)
    ).norm()
    assert length > 1e-2
    for mine, theirs in zip(stepped, moved.values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6 * float(length))


def test_a_first_order_gradient_is_another_one():
    """The check of the gradient can fail."""
    algorithm = MAMLTRPO(dataclasses.replace(CONFIG, first_order=True))
    state = algorithm.init()
    sampled = algorithm.agent.sample(state.meta, 0)
    params = params_of(state.meta.model)
    tasks = []
    for task in range(CONFIG.meta_batch_size):
        before = batch_of(sampled.batches[0], task, params)
        tasks.append([before, batch_of(sampled.query, task, minimal.adapt(params, [before]))])
    _, gradient, _ = minimal.derivatives(params, tasks)
    expected = make_objective(algorithm.agent, state.meta, sampled).problem().gradient
    assert (gradient - expected).norm() > 1e-2 * expected.norm()


def test_it_prints_a_curve_every_ten_iterations(monkeypatch, capsys):
    for name in ("TASKS", "TEST_TASKS", "EPISODES", "HORIZON", "HIDDEN_UNITS", "CG_ITERATIONS", "LINE_SEARCH_STEPS"):
        monkeypatch.setattr(minimal, name, 2)
    monkeypatch.setattr(minimal, "ITERATIONS", 10)
    minimal.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["iteration", "0", "10"]
    assert all(float(score) < 0 for score in lines[-1].split()[2:])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_learns(capsys):
    minimal.main()
    after = [float(score) for score in capsys.readouterr().out.splitlines()[-1].split()[2:]]
    assert after[1] > -14 and after[3] > -6  # one run: -10.8 and -4.3; untrained: -53 and -48
