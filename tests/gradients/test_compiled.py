"""MAML-TRPO with compiled perceptrons against the same numbers by autograd."""

import pytest
import torch

from research.algorithms.gradient.compiled import CompiledPart
from research.algorithms.gradient.maml_trpo import MAMLTRPO, MAMLTRPOConfig, make_objective
from research.algorithms.trust_region import LinearizedPart
from research.inner_loops.base import InnerLoop
from research.losses import reinforce
from research.policies import PolicyConfig, mlp_kernel
from research.types import MetaParams

SMALL = dict(meta_batch_size=3, episodes_per_task=4, horizon=12, dtype="float64", policy=PolicyConfig((8, 5)))
CASES = {
    "one step": {},
    "two steps": {"num_inner_steps": 2, "inner_lr": (0.1, 0.05)},
    "a learned rate of each element": {"learn_inner_lr": "per_parameter"},
    "learned rates of two steps": {"learn_inner_lr": "per_step", "num_inner_steps": 2},
    "first order": {"first_order": True},
    "some layers": {"adapt_only": ("mean.2.*", "log_std"), "learn_inner_lr": "per_parameter"},
    "relu": {"policy": PolicyConfig((6,), activation="relu")},
    "a task in each chunk": {"episodes_per_task": 40, "horizon": 60},
}


@pytest.fixture
def without_compiler(monkeypatch):
    def switch():
        monkeypatch.setattr(mlp_kernel, "_load", lambda dtype: None)

    return switch


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_the_objective_of_maml_trpo_is_that_of_autograd(settings, without_compiler):
    algorithm = MAMLTRPO(MAMLTRPOConfig(**(SMALL | settings)))
    agent, meta = algorithm.agent, algorithm.init().meta
    sampled = agent.sample(meta, 0)
    found = []
    for part in (CompiledPart, LinearizedPart):
        objective = make_objective(agent, meta, sampled)
        assert {type(each) for each in objective.parts} == {part}
        problem, entropy = objective.problem(), objective.entropy()
        generator = torch.Generator().manual_seed(1)
        vector, step = torch.randn(2, len(problem.gradient), generator=generator, dtype=torch.float64)
        numbers = torch.tensor([problem.loss, entropy, *problem.evaluate(0.01 * step)])
        found.append((numbers, problem.gradient, problem.fisher_product(vector)))
        without_compiler()
    for ours, expected in zip(*found, strict=True):
        assert_same(ours, expected)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_the_derivative_of_the_inner_loop_is_that_of_reverse_mode(settings, without_compiler):
    algorithm = MAMLTRPO(MAMLTRPOConfig(**(SMALL | settings)))
    agent, meta = algorithm.agent, algorithm.init().meta
    batches = agent.sample(meta, 0).batches
    loop, generator = agent.inner_loop, torch.Generator().manual_seed(2)
    normal = lambda value: torch.randn(value.shape, generator=generator, dtype=value.dtype)  # noqa: E731
    tangent = MetaParams(*({name: normal(value) for name, value in params.items()} for params in meta))
    ours = loop.linearize(agent.policy, meta, reinforce, batches)
    cotangent = {name: normal(value) for name, value in ours.adapted.items()}
    pushed, pulled = ours.jvp(tangent), ours.vjp(cotangent)
    without_compiler()
    expected = InnerLoop.linearize(loop, agent.policy, meta, reinforce, batches)
    expected_pushed, expected_pulled = expected.jvp(tangent), expected.vjp(cotangent)
    for name in meta.model:
        assert_same(ours.adapted[name], expected.adapted[name])
        assert_same(pushed[name], expected_pushed[name])
        assert_same(pulled.model[name], expected_pulled.model[name])
    for name in meta.update:
        assert_same(pulled.update[name], expected_pulled.update[name])
