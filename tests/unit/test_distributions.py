from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.func import jacrev, vmap

from research.distributions import Categorical, DiagGaussian

KINDS = ["gaussian", "categorical"]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(kind, *batch, seed=0, size=3):
    """A distribution of ours, and the same one of torch's."""
    if kind == "gaussian":
        mean, log_std = numbers(*batch, size, seed=seed), 0.5 * numbers(*batch, size, seed=seed + 100)
        theirs = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
        return DiagGaussian(mean, log_std), theirs
    logits = 2.0 * numbers(*batch, size, seed=seed)
    return Categorical(logits), torch.distributions.Categorical(logits=logits)


def actions(kind, *batch, size=3):
    if kind == "gaussian":
        return numbers(*batch, size, seed=7)
    return torch.randint(size, batch, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [(), (4,), (2, 5)])
@pytest.mark.parametrize("size", [1, 3])
def test_values_are_those_of_torch(kind, batch, size):
    ours, theirs = make(kind, *batch, size=size)
    other, their_other = make(kind, *batch, seed=1, size=size)
    action = actions(kind, *batch, size=size)
    assert ours.log_prob(action).shape == ours.entropy().shape == ours.kl(other).shape == batch
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.kl(other), torch.distributions.kl_divergence(theirs, their_other))
    torch.testing.assert_close(ours.log_prob_and_entropy(action), (ours.log_prob(action), ours.entropy()))


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_is_the_hessian_of_the_divergence(kind):
    ours, _ = make(kind)
    sizes = [field.numel() for field in ours]
    point = torch.cat(ours)

    def divergence(vector):
        return ours.kl(type(ours)(*vector.split(sizes)))

    matrix = jacrev(jacrev(divergence))(point)
    columns = [
        torch.cat(ours.fisher(type(ours)(*direction.split(sizes)))) for direction in torch.eye(len(point)).double()
    ]
    torch.testing.assert_close(torch.stack(columns, 1), matrix)
    torch.testing.assert_close(torch.func.grad(divergence)(point), torch.zeros_like(point))


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_is_the_covariance_of_the_score(kind):
    """The other definition of the information, E[∇log p ∇log pᵀ], by quadrature or by a sum over all actions."""
    ours, _ = make(kind, size=2)
    sizes = [field.numel() for field in ours]
    if kind == "categorical":
        points = torch.arange(2)
        weights = ours.logits.softmax(-1)
    else:
        axis = torch.linspace(-8, 8, 321, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        points = ours.mean + ours.log_std.exp() * grid
        weights = (-0.5 * (grid**2).sum(-1)).exp() * (axis[1] - axis[0]) ** 2 / (2 * math.pi)
    score = vmap(torch.func.grad(lambda v, a: type(ours)(*v.split(sizes)).log_prob(a)), (None, 0))
    scores = score(torch.cat(ours), points)
    direction = numbers(sum(sizes), seed=3)
    expected = torch.einsum("n,ni,nj,j->i", weights, scores, scores, direction)
    product = torch.cat(ours.fisher(type(ours)(*direction.split(sizes))))
    torch.testing.assert_close(product, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_passes_through_vmap(kind):
    (ours, _), (other, _) = make(kind, 4), make(kind, 4, seed=1)
    action = actions(kind, 4)
    torch.testing.assert_close(vmap(lambda d, a: d.log_prob(a))(ours, action), ours.log_prob(action))
    torch.testing.assert_close(vmap(lambda d: d.entropy())(ours), ours.entropy())
    torch.testing.assert_close(vmap(lambda d, o: d.kl(o))(ours, other), ours.kl(other))
    torch.testing.assert_close(vmap(lambda d, o: tuple(d.fisher(o)))(ours, other), tuple(ours.fisher(other)))
    torch.testing.assert_close(vmap(lambda d: d.mode())(ours), ours.mode())


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=4), st.lists(st.floats(-30, 30), min_size=4, max_size=4))
def test_divergence_is_positive_and_zero_from_itself(first, second):
    for kind in (Categorical, lambda x: DiagGaussian(x, 0.1 * x)):
        p = kind(torch.tensor(first, dtype=torch.float64))
        q = kind(torch.tensor(second[: len(first)], dtype=torch.float64))
        assert p.kl(q) >= -1e-9
        assert p.kl(p).abs() < 1e-9


def test_extreme_logits_stay_finite():
    sure = Categorical(torch.tensor([1e4, -1e4, 0.0]))
    assert sure.log_prob(torch.tensor(1)).isfinite()
    assert sure.entropy() == 0
    assert torch.isfinite(sure.kl(Categorical(torch.zeros(3))))
    assert sure.sample(torch.Generator().manual_seed(0)) == 0


def test_gaussian_samples_have_its_moments():
    ours = DiagGaussian(torch.tensor([1.0, -2.0]), torch.tensor([0.0, math.log(0.2)]))
    drawn = DiagGaussian(*(field.expand(200_000, 2) for field in ours)).sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), ours.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(0), ours.log_std.exp(), atol=0.01, rtol=0)
    assert abs(torch.corrcoef(drawn.T)[0, 1]) < 0.01


def test_categorical_samples_have_its_frequencies():
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0])
    drawn = Categorical(logits.expand(200_000, 4)).sample(torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.int64
    torch.testing.assert_close(drawn.bincount(minlength=4) / 200_000, logits.softmax(-1), atol=0.005, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_come_from_the_generator_alone(kind):
    ours, _ = make(kind, 50)
    before = torch.get_rng_state()
    first, again, other = (ours.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_carry_no_gradient():
    mean = torch.zeros(2, requires_grad=True)
    assert not DiagGaussian(mean, torch.zeros(2)).sample(torch.Generator()).requires_grad
    assert not Categorical(mean).sample(torch.Generator()).requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_mode_is_most_probable(kind):
    ours, _ = make(kind, 6)
    drawn = ours.sample(torch.Generator().manual_seed(0))
    assert (ours.log_prob(ours.mode()) >= ours.log_prob(drawn)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_types_of_actions_are_checked(kind):
    distribution, _ = make(kind, 4)
    other = "categorical" if kind == "gaussian" else "gaussian"
    with pytest.raises(TypeCheckError):
        distribution.log_prob(actions(other, 4))
