"""PPO's compiled loss against torch's operations: loss, terms and derivatives, also at the edges of its inputs."""

from __future__ import annotations

import pytest
import torch

from research import native
from research.algorithms.memory import losses
from research.algorithms.memory.config import RL2Config
from research.algorithms.memory.losses import rl2_loss
from research.algorithms.memory.ppo_loss import Coefficients, Samples, ppo_loss
from research.algorithms.memory.recurrent import Steps
from research.distributions import Categorical, DiagGaussian
from research.policies.memory import Inputs, Output

CONFIG = RL2Config(clip_eps=0.2, value_coef=0.7, num_threads=1)
ROWS, TIME = 5, 61
"""305 steps are more than one block of ppo_loss.c."""
DTYPES = [(torch.float64, 1e-12), (torch.float32, 2e-6)]


def made(size: int, gaussian: bool, dtype=torch.float64, valid: float = 0.8):
    """Leaves (outputs, value, log σ or None) and steps whose ratios are on both sides of the clip."""
    generator = torch.Generator().manual_seed(size)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    outputs = (2 * random(ROWS, TIME, size)).requires_grad_()
    log_std = (0.3 * random(size)).requires_grad_() if gaussian else None
    action = random(ROWS, TIME, size) if gaussian else torch.randint(size, (ROWS, TIME), generator=generator)
    with torch.no_grad():
        log_prob = distribution_of(outputs, log_std).log_prob(action) + 0.3 * random(ROWS, TIME)
    counted = torch.rand(ROWS, TIME, generator=generator) < valid
    steps = Steps(Inputs(outputs.detach()), action, log_prob, random(ROWS, TIME), random(ROWS, TIME), counted)
    return (outputs, random(ROWS, TIME).requires_grad_(), log_std), steps


def distribution_of(outputs, log_std):
    return Categorical(outputs) if log_std is None else DiagGaussian(outputs, log_std.expand_as(outputs))


def loss_of(leaves, steps, monkeypatch=None):
    """Loss, terms and derivatives; by torch's operations with `monkeypatch`."""
    outputs, value, log_std = leaves
    with pytest.MonkeyPatch.context() as patch:
        if monkeypatch:
            patch.setattr(losses, "ppo_loss", lambda *_: None)
        loss, terms = rl2_loss(Output(distribution_of(outputs, log_std), value, None), steps, CONFIG, 0.03)
    wanted = [leaf for leaf in leaves if leaf is not None]
    return [loss.detach(), terms, *torch.autograd.grad(0.3 * loss, wanted)]


def assert_same(leaves, steps, tolerance):
    assert ppo_loss(
        distribution_of(leaves[0], leaves[2]), leaves[1], Samples(*steps[1:]), Coefficients(0.2, 0.03, 0.7)
    ), "the compiled form is used"
    for ours, expected in zip(loss_of(leaves, steps), loss_of(leaves, steps, True), strict=True):
        size = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("size", "gaussian"), [(2, False), (5, False), (19, False), (1, True), (6, True)])
def test_loss_terms_and_derivatives_are_those_of_torch(size, gaussian, dtype, tolerance):
    leaves, steps = made(size, gaussian, dtype)
    assert 0.1 < float(loss_of(leaves, steps)[1][4]) < 0.9, "some ratios are beyond the clip"
    assert_same(leaves, steps, tolerance)


def test_memory_may_lead_with_time_and_outputs_may_be_parts_of_one_product():
    leaves, steps = made(5, False)
    together = torch.cat([leaves[0], leaves[1].unsqueeze(-1)], -1).detach().transpose(0, 1).contiguous()
    together = together.requires_grad_()
    by_time = Steps(steps.inputs, *(leaf.transpose(0, 1).contiguous().transpose(0, 1) for leaf in steps[1:]))
    outputs = together.transpose(0, 1)
    loss, _ = rl2_loss(Output(Categorical(outputs[..., :5]), outputs[..., 5], None), by_time, CONFIG, 0.03)
    (found,) = torch.autograd.grad(0.3 * loss, together)
    expected = loss_of(leaves, steps, True)
    torch.testing.assert_close(loss.detach(), expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(found.transpose(0, 1)[..., :5], expected[2], rtol=0, atol=1e-13)
    torch.testing.assert_close(found.transpose(0, 1)[..., 5], expected[3], rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ratios_exactly_one_pass_all_of_the_gradient(dtype):
    """The first minibatch of an iteration, up to the rounding of the two log-probabilities."""
    leaves, steps = made(5, False, dtype)
    with torch.no_grad():
        steps = steps._replace(log_prob=Categorical(leaves[0]).log_prob(steps.action))
    assert_same(leaves, steps, 1e-12 if dtype == torch.float64 else 2e-6)


@pytest.mark.parametrize(("advantage", "inside"), [(1.0, True), (-1.0, True), (1.0, False), (-1.0, False)])
def test_a_ratio_at_the_clip_is_not_clipped(advantage, inside):
    """Two actions of equal probability: ρ = 1 exactly, or a little more, with ε = 0."""
    outputs, value = torch.zeros(1, 1, 2, requires_grad=True, dtype=torch.float64), torch.zeros(1, 1).double()
    old = torch.full((1, 1), 0.5, dtype=torch.float64).log() - (0.0 if inside else 1e-9)
    one = torch.full((1, 1), advantage).double()
    samples = Samples(torch.zeros(1, 1).long(), old, one, one, torch.ones(1, 1).bool())
    found = ppo_loss(Categorical(outputs), value, samples, Coefficients(0.0, 0.0, 0.0))
    assert found is not None
    (gradient,) = torch.autograd.grad(found[0], outputs)
    passes = inside or advantage < 0  # a clip never removes what raises the loss
    expected = -advantage * passes * torch.tensor([0.5, -0.5]).double()
    torch.testing.assert_close(gradient[0, 0], expected, rtol=1e-8, atol=0)
    assert float(found[1][4]) == (not inside)


def test_no_number_of_a_step_that_is_not_valid_is_read():
    leaves, steps = made(5, False, valid=0.5)
    outputs, value = (leaf.detach().clone() for leaf in leaves[:2])
    hidden = ~steps.valid
    outputs[hidden], value[hidden] = float("nan"), float("inf")
    broken = steps._replace(
        action=steps.action.where(steps.valid, -1), target=steps.target.where(steps.valid, torch.nan)
    )
    ours = loss_of((outputs.requires_grad_(), value.requires_grad_(), None), broken)
    for found, expected in zip(ours, loss_of(leaves, steps, True), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    nothing = loss_of(leaves, steps._replace(valid=torch.zeros_like(steps.valid)))
    assert all(not leaf.any() for leaf in nothing), "no valid step at all: everything is 0"


def test_actions_that_do_not_exist_are_refused():
    leaves, steps = made(5, False, valid=2.0)
    for wrong in (-1, 5):
        action = steps.action.clone()
        action[1, 2] = wrong
        with pytest.raises(IndexError, match=rf"action: got {min(wrong, 0)} to {max(wrong, 4)}, need 0 to 4"):
            loss_of(leaves, steps._replace(action=action))


def test_torch_computes_where_c_cannot(monkeypatch):
    leaves, steps = made(2, True)
    own = DiagGaussian(leaves[0], 0.1 * leaves[0])  # a deviation of each step
    coefficients = Coefficients(0.2, 0.03, 0.7)
    shared = DiagGaussian(leaves[0], torch.zeros(1, dtype=torch.float64).expand(ROWS, TIME, 1))
    assert ppo_loss(shared, leaves[1], Samples(*steps[1:]), coefficients) is None, "C would write beyond one number"
    assert ppo_loss(own, leaves[1], Samples(*steps[1:]), coefficients) is None
    halves = Samples(*(leaf.half() if leaf.is_floating_point() else leaf for leaf in steps[1:]))
    assert ppo_loss(Categorical(leaves[0].half()), leaves[1].half(), halves, coefficients) is None
    monkeypatch.setattr(native, "compiled", lambda *_: (_ for _ in ()).throw(OSError("no compiler")))
    native.library.cache_clear()
    try:
        assert ppo_loss(distribution_of(leaves[0], leaves[2]), leaves[1], Samples(*steps[1:]), coefficients) is None
    finally:
        native.library.cache_clear()
