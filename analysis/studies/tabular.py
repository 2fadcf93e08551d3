"""Exact quantities of tabular Markov decision processes with finite horizon and a softmax policy.

State visitation, expected return J(θ), policy gradient, exact inner steps θ' = θ + α ∇J(θ) and the true meta-gradient
∇ J(θ') are finite sums, differentiated by autograd. Optimal values follow by dynamic programming.

A policy is a table of `logits`, π(a|s) ∝ exp(logits[s, a]): `[*mdps, states, actions]` for a stationary policy, or
`[*mdps, time, states, actions]` for one that depends on time. All functions take MDPs with any leading axes and one
policy for each MDP, and are differentiable any number of times in the logits. Use float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from research.distributions import Categorical
from research.types import Trajectories
from research.validation import at_least, in_unit_interval


@dataclass(frozen=True, eq=False)
class TabularMDPs:
    """MDPs of the same size, with any number of leading axes `[*mdps]` on every tensor.

    The objective is E Σ_{t<horizon} γᵗ r_t. There is no reward after the horizon.

    Attributes:
        transition: `[*mdps, states, actions, states]`, P(s'|s, a).
        reward: `[*mdps, states, actions]`, the mean reward.
        start: `[*mdps, states]`, the distribution of the first state.
        horizon: The number of steps of an episode.
        discount: γ.
        reward_std: The standard deviation of the normal noise on sampled rewards.
    """

    transition: Tensor
    reward: Tensor
    start: Tensor
    horizon: int
    discount: float = 1.0
    reward_std: float = 0.0

    def __post_init__(self) -> None:
        at_least(self, 1, "horizon")
        at_least(self, 0, "reward_std")
        in_unit_interval(self, "discount")
        *axes, states, actions = self.reward.shape
        for name, shape in (("transition", (*axes, states, actions, states)), ("start", (*axes, states))):
            value: Tensor = getattr(self, name)
            if value.shape != shape:
                raise ValueError(
                    f"{name}: its shape is {tuple(value.shape)}; for reward {tuple(self.reward.shape)} need {shape}"
                )
            total = value.sum(-1)
            if (value < 0).any() or not torch.allclose(total, torch.ones_like(total), atol=1e-6):
                raise ValueError(
                    f"{name}: need probabilities that sum to 1 over the last axis, got a least value of "
                    f"{float(value.min()):.6g} and sums from {float(total.min()):.6g} to {float(total.max()):.6g}"
                )

    @property
    def axes(self) -> tuple[int, ...]:
        """The sizes of the leading axes."""
        return tuple(self.reward.shape[:-2])

    def expand(self, copies: int) -> TabularMDPs:
        """Returns the MDPs repeated `copies` times along a new first axis, as a view."""
        transition, reward, start = (
            value.expand(copies, *value.shape) for value in (self.transition, self.reward, self.start)
        )
        return TabularMDPs(transition, reward, start, self.horizon, self.discount, self.reward_std)


def random_mdps(
    num_mdps: int,
    rng: np.random.Generator,
    num_states: int = 10,
    num_actions: int = 5,
    horizon: int = 10,
    discount: float = 1.0,
    reward_std: float = 1.0,
) -> TabularMDPs:
    """Returns `[num_mdps]` random MDPs: P(·|s, a) ~ Dirichlet(1), mean rewards ~ N(1, 1), start in state 0.

    The defaults are those of Duan et al. 2016, arXiv:1611.02779, section 3.1.2 (after Osband, Russo & Van Roy 2013).
    """
    sizes = dict(num_mdps=num_mdps, num_states=num_states, num_actions=num_actions)
    at_least(sizes, 1, *sizes)
    start = np.zeros((num_mdps, num_states))
    start[:, 0] = 1.0
    return TabularMDPs(
        transition=torch.from_numpy(rng.dirichlet(np.ones(num_states), (num_mdps, num_states, num_actions))),
        reward=torch.from_numpy(rng.normal(1.0, 1.0, (num_mdps, num_states, num_actions))),
        start=torch.from_numpy(start),
        horizon=horizon,
        discount=discount,
        reward_std=reward_std,
    )


def policy(logits: Tensor) -> Callable[[Tensor], Categorical]:
    """Returns the softmax policy of one MDP as a function of the one-hot observations of `sample_episodes`."""
    table = logits.flatten(0, -2)
    return lambda observation: Categorical(observation @ table)


def state_visitation(mdps: TabularMDPs, logits: Float[Tensor, "*table"]) -> Float[Tensor, "*mdps time states"]:
    """Returns P(s_t = s), undiscounted: d_0 = start, d_{t+1}(s') = Σ_{s,a} d_t(s) π_t(a|s) P(s'|s, a)."""
    probs = _per_step(mdps, logits).softmax(-1)
    visited = [mdps.start]
    for t in range(mdps.horizon - 1):
        visited.append(torch.einsum("...s,...sa,...sap->...p", visited[-1], probs[..., t, :, :], mdps.transition))
    return torch.stack(visited, -2)


def occupancy(mdps: TabularMDPs, logits: Float[Tensor, "*table"]) -> Float[Tensor, "*mdps time states actions"]:
    """Returns γᵗ P(s_t = s, a_t = a), the weights of an expected discounted sum over the steps of an episode."""
    discounts = mdps.discount ** torch.arange(mdps.horizon, dtype=logits.dtype, device=logits.device)
    joint = state_visitation(mdps, logits).unsqueeze(-1) * _per_step(mdps, logits).softmax(-1)
    return joint * discounts[:, None, None]


def action_values(mdps: TabularMDPs, logits: Float[Tensor, "*table"]) -> Float[Tensor, "*mdps time states actions"]:
    """Returns Q_t(s, a) = r(s, a) + γ Σ_{s'} P(s'|s, a) V_{t+1}(s'), with V_t(s) = Σ_a π_t(a|s) Q_t(s, a).

    V_horizon = 0.
    """
    probs = _per_step(mdps, logits).softmax(-1)
    return _backward(mdps, lambda t, q: (probs[..., t, :, :] * q).sum(-1))


def advantages(mdps: TabularMDPs, logits: Float[Tensor, "*table"]) -> Float[Tensor, "*mdps time states actions"]:
    """Returns A_t(s, a) = Q_t(s, a) − V_t(s)."""
    q = action_values(mdps, logits)
    return q - (_per_step(mdps, logits).softmax(-1) * q).sum(-1, keepdim=True)


def expected_return(mdps: TabularMDPs, logits: Float[Tensor, "*table"]) -> Float[Tensor, "*mdps"]:
    """Returns J(θ) = E Σ_t γᵗ r_t."""
    value = (_per_step(mdps, logits).softmax(-1) * action_values(mdps, logits)).sum(-1)
    return (mdps.start * value[..., 0, :]).sum(-1)


def optimal_action_values(mdps: TabularMDPs) -> Float[Tensor, "*mdps time states actions"]:
    """Returns Q*_t(s, a), the action values of the best time-dependent policy, by value iteration."""
    return _backward(mdps, lambda t, q: q.amax(-1))


def optimal_return(mdps: TabularMDPs) -> Float[Tensor, "*mdps"]:
    """Returns the maximum of J over all policies, including time-dependent ones."""
    return (mdps.start * optimal_action_values(mdps)[..., 0, :, :].amax(-1)).sum(-1)


def policy_gradient(mdps: TabularMDPs, logits: Float[Tensor, "*table"]) -> Float[Tensor, "*table"]:
    """Returns ∇J(θ), for each MDP in its own logits."""
    gradient: Tensor = torch.func.grad(lambda table: expected_return(mdps, table).sum())(logits)
    return gradient


def adapt(mdps: TabularMDPs, logits: Float[Tensor, "*table"], step_size: float, steps: int = 1) -> Tensor:
    """Returns θ after exact inner steps θ ← θ + α ∇J(θ), in the shape of the logits."""
    for _ in range(steps):
        logits = logits + step_size * policy_gradient(mdps, logits)
    return logits


def adapted_return(
    mdps: TabularMDPs, logits: Float[Tensor, "*table"], step_size: float, steps: int = 1
) -> Float[Tensor, "*mdps"]:
    """Returns J(θ'), the expected return after exact inner steps."""
    return expected_return(mdps, adapt(mdps, logits, step_size, steps))


def meta_gradient(
    mdps: TabularMDPs, logits: Float[Tensor, "*table"], step_size: float, steps: int = 1
) -> Float[Tensor, "*table"]:
    """Returns ∇_θ J(θ'), for one step (I + α ∇²J(θ)) ∇J(θ'), for each MDP in its own logits.

    This is the gradient in the limit of infinitely many inner episodes. `enumeration.finite_sample_return` has the
    objective for a finite number of episodes, which differs.
    """
    gradient: Tensor = torch.func.grad(lambda table: adapted_return(mdps, table, step_size, steps).sum())(logits)
    return gradient


@torch.no_grad()
def sample_episodes(
    mdps: TabularMDPs, logits: Float[Tensor, "*table"], num_episodes: int, generator: torch.Generator
) -> Trajectories:
    """Samples episodes of the policy, `[tasks, episodes, time]`, with the leading axis of `mdps` as tasks.

    Observations are one-hot: of the state for a stationary policy, of (time, state) for a time-dependent one, so that
    `policy(logits)` reads both. The last step of an episode terminates it, since there is no reward after the horizon.
    `last_observation` of a time-dependent policy has no meaning.

    Raises:
        ValueError: The MDPs do not have exactly one leading axis, or `num_episodes` is below 1.
    """
    at_least(dict(num_episodes=num_episodes), 1, "num_episodes")
    if len(mdps.axes) != 1:
        raise ValueError(f"mdps: their leading axes are {mdps.axes}, need one; expand(1) gives a single MDP one")
    tasks, horizon, states = mdps.axes[0], mdps.horizon, mdps.reward.shape[-2]
    tables, task = _per_step(mdps, logits), torch.arange(tasks).unsqueeze(1)
    state = _draw(mdps.start.unsqueeze(1).expand(-1, num_episodes, -1), generator)
    steps = []
    for t in range(horizon):
        distribution = Categorical(tables[task, t, state])
        action = distribution.sample(generator)
        steps.append((state, action, distribution.log_prob(action)))
        state = _draw(mdps.transition[task, state, action], generator)
    seen, action, log_prob = (torch.stack(values, -1) for values in zip(*steps, strict=True))
    reward = mdps.reward[task.unsqueeze(-1), seen, action]
    if mdps.reward_std:
        reward = reward + mdps.reward_std * torch.randn(reward.shape, generator=generator, dtype=reward.dtype)
    timed = horizon if logits.ndim > mdps.reward.ndim else None
    valid = torch.ones_like(seen, dtype=torch.bool)
    return Trajectories(
        observation=observe(seen, states, timed, reward.dtype),
        action=action,
        reward=reward,
        log_prob=log_prob,
        terminated=valid & (torch.arange(horizon) == horizon - 1),
        valid=valid,
        last_observation=observe(state.unsqueeze(-1), states, timed, reward.dtype).squeeze(-2),
        diverged=torch.zeros(tasks, num_episodes, dtype=torch.bool),
    )


def observe(state: Tensor, num_states: int, horizon: int | None, dtype: torch.dtype) -> Tensor:
    """Returns one-hot observations of `state [..., time]`: of the state or, with a horizon, of (time, state)."""
    if horizon is None:
        return one_hot(state, num_states).to(dtype)
    time = torch.arange(state.shape[-1], device=state.device)
    return one_hot(time * num_states + state, horizon * num_states).to(dtype)


def _draw(probs: Tensor, generator: torch.Generator) -> Tensor:
    """Draws an index from each distribution `probs [..., n]`, by inversion of the distribution function."""
    uniform = torch.rand(probs.shape[:-1], generator=generator, dtype=probs.dtype).unsqueeze(-1)
    # Scaled by the total, which may round to less than 1, so that no index is out of range.
    cumulative = probs.cumsum(-1)
    return (uniform * cumulative[..., -1:] >= cumulative).sum(-1)


def _backward(mdps: TabularMDPs, value_of: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Returns action values by backward recursion, V_t = value_of(t, Q_t): `[*mdps, time, states, actions]`."""
    values = [mdps.reward]
    for t in reversed(range(1, mdps.horizon)):
        following = torch.einsum("...sap,...p->...sa", mdps.transition, value_of(t, values[-1]))
        values.append(mdps.reward + mdps.discount * following)
    return torch.stack(values[::-1], -3)


def _per_step(mdps: TabularMDPs, logits: Tensor) -> Tensor:
    """Returns the logits with a table for each step, `[*mdps, time, states, actions]`."""
    shape = (*mdps.axes, mdps.horizon, *mdps.reward.shape[-2:])
    if logits.shape == mdps.reward.shape:
        return logits.unsqueeze(-3).expand(shape)
    if logits.shape == shape:
        return logits
    raise ValueError(
        f"logits: their shape is {tuple(logits.shape)}; need {tuple(mdps.reward.shape)}, or {shape} for a policy that "
        "depends on time"
    )
