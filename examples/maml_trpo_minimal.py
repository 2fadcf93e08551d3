"""MAML-TRPO on 2D navigation in one file: what `research/` computes, written as plainly as possible.

    python examples/maml_trpo_minimal.py

trains for about two minutes of one core and prints how the agent adapts to goals that it was not trained on.

    repeat
        for each of B random goals:
            D_i  ← episodes of π_θ
            θ_i(θ) = θ − α ∇L(θ; D_i)                       L(θ; D) = −mean_D(log π_θ(a|s) A)
            D'_i ← episodes of π_θi
        f(θ)  = −1/B Σ_i mean_D'_i(π_θi(θ)(a|s) / π_old,i(a|s) A)     π_old,i: the policy that sampled D'_i
        KL(θ) = 1/B Σ_i mean_D'_i KL(π_old,i ‖ π_θi(θ))
        x ← (∇²KL(θ) + c·I)⁻¹ ∇f(θ)                         by conjugate gradient
        θ ← θ − √(2δ / xᵀ(∇²KL + c·I)x) x                   shortened until f decreases and KL ≤ δ

Finn, Abbeel & Levine 2017, arXiv:1703.03400, algorithm 3. TRPO: Schulman et al. 2015, arXiv:1502.05477. Advantages:
Schulman et al. 2016, arXiv:1506.02438. Baseline: Duan et al. 2016, arXiv:1604.06778.

`research/algorithms/maml_trpo.py` gives the same numbers without third derivatives, for all tasks at once and on all
cores; `tests/gradients/test_minimal_example.py` compares the two.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

ITERATIONS, TASKS, TEST_TASKS = 30, 10, 40  # TASKS in one meta-update
EPISODES, HORIZON = 20, 100  # EPISODES of each task before and after each inner step
DONE_RADIUS = 0.01  # an episode ends when both coordinates are nearer to the goal than this
HIDDEN_UNITS = 32  # in each of two layers
INNER_LR = [0.5, 0.15, 0.1]  # of the first, second and third step; training makes one step, evaluation three
DISCOUNT, GAE_LAMBDA = 0.99, 0.9
MAX_KL, CG_ITERATIONS, CG_DAMPING = 0.01, 10, 1e-5
LINE_SEARCH_STEPS, LINE_SEARCH_SHRINK = 15, 0.8

Params = list[Tensor]  # [log σ, W_1, b_1, W_2, b_2, W_3, b_3], all with requires_grad


class Episodes(NamedTuple):
    """Episodes of one task; after its end an episode stands still, with reward 0 and `valid` False."""

    position: Tensor  # [episodes, time + 1, 2]
    action: Tensor  # [episodes, time, 2]
    reward: Tensor  # [episodes, time]
    terminated: Tensor  # [episodes, time]: the goal is reached by this step
    valid: Tensor  # [episodes, time]: the step belongs to the episode


class Batch(NamedTuple):
    """The valid steps of one task's episodes, `[steps, ...]`, with the distribution that each action came from."""

    observation: Tensor
    action: Tensor
    advantage: Tensor
    old: Distribution


def init_params(generator: torch.Generator) -> Params:
    """Glorot-uniform weights, those of the last layer times 0.01; zero biases; σ = 1."""
    params = [torch.zeros(2)]
    for fan_in, fan_out, scale in (2, HIDDEN_UNITS, 1), (HIDDEN_UNITS, HIDDEN_UNITS, 1), (HIDDEN_UNITS, 2, 0.01):
        bound = scale * math.sqrt(6 / (fan_in + fan_out))
        params += [bound * (2 * torch.rand(fan_out, fan_in, generator=generator) - 1), torch.zeros(fan_out)]
    return [p.requires_grad_() for p in params]


def policy(params: Params, observation: Tensor) -> Distribution:
    """The action distribution at each observation: normal, with independent dimensions."""
    log_std, w1, b1, w2, b2, w3, b3 = params
    mean = ((observation @ w1.T + b1).tanh() @ w2.T + b2).tanh() @ w3.T + b3
    return Independent(Normal(mean, log_std.exp().expand_as(mean), validate_args=False), 1)


@torch.no_grad()
def rollout(params: Params, goal: Tensor, generator: torch.Generator) -> Episodes:
    """Episodes from the origin. An action moves the point; the reward is minus its distance to the goal after that."""
    position, active = params[0].new_zeros(EPISODES, 2), torch.ones(EPISODES, dtype=torch.bool)
    positions, steps = [position], []
    for _ in range(HORIZON):
        distribution = policy(params, position)
        action = torch.normal(distribution.mean, distribution.stddev, generator=generator)
        position = position + 0.1 * action.clamp(-1, 1) * active[:, None]
        reward = -(position - goal).norm(dim=-1) * active
        terminated = ((position - goal).abs() < DONE_RADIUS).all(-1) & active
        positions.append(position)
        steps.append((action, reward, terminated, active))
        active = active & ~terminated
    return Episodes(torch.stack(positions, 1), *(torch.stack(column, 1) for column in zip(*steps, strict=True)))


def values(episodes: Episodes) -> Tensor:
    """V of every position, `[episodes, time + 1]`: linear in features, fitted to the discounted returns."""
    position = episodes.position.double().clamp(-10, 10)
    tau = (torch.arange(position.shape[1], dtype=position.dtype) / 100).expand(position.shape[:2])[..., None]
    features = torch.cat([position, position**2, tau, tau**2, tau**3, torch.ones_like(tau)], -1)
    returns = episodes.reward.double().clone()
    for t in reversed(range(returns.shape[1] - 1)):
        returns[:, t] += DISCOUNT * returns[:, t + 1]
    x, y = features[:, :-1][episodes.valid], returns[episodes.valid]
    weights = torch.linalg.solve(x.T @ x + 1e-5 * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    fitted: Tensor = features @ weights
    return fitted.to(episodes.position.dtype)


def make_batch(params: Params, episodes: Episodes) -> Batch:
    """The valid steps, their generalised advantage estimates scaled to mean 0 and deviation 1; `params` acted."""
    value, valid = values(episodes), episodes.valid
    advantage = torch.zeros_like(episodes.reward)
    running = torch.zeros_like(value[:, 0])
    for t in reversed(range(advantage.shape[1])):
        next_value = value[:, t + 1] * ~episodes.terminated[:, t]
        delta = episodes.reward[:, t] + DISCOUNT * next_value - value[:, t]
        advantage[:, t] = running = (delta + DISCOUNT * GAE_LAMBDA * running) * valid[:, t]
    centred = advantage[valid] - advantage[valid].mean()
    observation = episodes.position[:, :-1][valid]
    with torch.no_grad():
        old = policy(params, observation)
    return Batch(observation, episodes.action[valid], centred / (centred.std(correction=0) + 1e-8), old)


def adapt(params: Params, batches: list[Batch]) -> Params:
    """Parameters after one policy-gradient step for each batch, differentiable in `params`."""
    for batch, inner_lr in zip(batches, INNER_LR, strict=False):
        loss = -(policy(params, batch.observation).log_prob(batch.action) * batch.advantage).mean()
        gradient = torch.autograd.grad(loss, params, create_graph=True)
        params = [p - inner_lr * g for p, g in zip(params, gradient, strict=True)]
    return params


def sample(
    params: Params, goal: Tensor, inner_steps: int, generator: torch.Generator
) -> tuple[list[Batch], list[float]]:
    """A batch of episodes before each inner step and one after the last, and the mean return of each."""
    batches: list[Batch] = []
    returns = []
    for _ in range(inner_steps + 1):
        adapted = adapt(params, batches)
        episodes = rollout(adapted, goal, generator)
        batches.append(make_batch(adapted, episodes))
        returns.append(float(episodes.reward.sum(-1).mean()))
    return batches, returns


def objective(params: Params, tasks: list[list[Batch]]) -> tuple[Tensor, Tensor]:
    """f and KL, means over tasks; the last batch of a task was sampled after its inner steps."""
    losses, divergences = [], []
    for *inner, last in tasks:
        new = policy(adapt(params, inner), last.observation)
        ratio = (new.log_prob(last.action) - last.old.log_prob(last.action)).exp()
        losses.append(-(ratio * last.advantage).mean())
        divergences.append(kl_divergence(last.old, new).mean())
    return torch.stack(losses).mean(), torch.stack(divergences).mean()


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """All elements in one vector."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def moved(params: Params, step: Tensor) -> Params:
    """New parameters: the given ones plus a step in the vector of all their elements."""
    parts = step.split([p.numel() for p in params])
    return [(p + part.view_as(p)).detach().requires_grad_() for p, part in zip(params, parts, strict=True)]


def conjugate_gradient(product: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """x with A x ≈ target, for `product` v → A v with a symmetric positive definite A."""
    x, residual, direction = torch.zeros_like(target), target, target
    for _ in range(CG_ITERATIONS):
        image = product(direction)
        length = residual @ residual / (direction @ image)
        x = x + length * direction
        previous, residual = residual, residual - length * image
        direction = residual + (residual @ residual) / (previous @ previous) * direction
    return x


def derivatives(params: Params, tasks: list[list[Batch]]) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """f, ∇f and the function v → (∇²KL + c·I) v."""
    loss, divergence = objective(params, tasks)
    gradient = flatten(torch.autograd.grad(loss, params, retain_graph=True))
    kl_gradient = flatten(torch.autograd.grad(divergence, params, create_graph=True))

    def product(vector: Tensor) -> Tensor:
        return flatten(torch.autograd.grad(kl_gradient @ vector, params, retain_graph=True)) + CG_DAMPING * vector

    return loss.detach(), gradient, product


def trust_region_step(params: Params, tasks: list[list[Batch]]) -> Params:
    """The parameters after the longest of the tried steps that decreases f within the trust region."""
    old_loss, gradient, product = derivatives(params, tasks)
    direction = conjugate_gradient(product, gradient)
    full_step = -(2 * MAX_KL / (direction @ product(direction))).sqrt() * direction
    for k in range(LINE_SEARCH_STEPS):
        new_params = moved(params, LINE_SEARCH_SHRINK**k * full_step)
        loss, divergence = objective(new_params, tasks)
        if loss < old_loss and divergence <= MAX_KL:
            return new_params
    return params


def main() -> None:
    """Trains, and prints the adaptation curve on held-out goals before, during and after training."""
    generator = torch.Generator().manual_seed(0)
    test_goals = torch.rand(TEST_TASKS, 2, generator=torch.Generator().manual_seed(1)) - 0.5
    params, start = init_params(generator), time.perf_counter()
    print(f"iteration  seconds  mean return on {TEST_TASKS} held-out goals after 0, 1, 2, 3 inner steps")
    for iteration in range(ITERATIONS + 1):
        if iteration > 0:
            goals = torch.rand(TASKS, 2, generator=generator) - 0.5
            params = trust_region_step(params, [sample(params, goal, 1, generator)[0] for goal in goals])
        if iteration % 10 == 0:
            curves = [sample(params, goal, 3, torch.Generator().manual_seed(2))[1] for goal in test_goals]
            scores = "".join(f"{score:8.2f}" for score in torch.tensor(curves).mean(0))
            print(f"{iteration:9d} {time.perf_counter() - start:8.0f} {scores}", flush=True)


if __name__ == "__main__":
    main()
