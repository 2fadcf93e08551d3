"""Meta-parameters and Adam's state of an agent that adapts by gradient steps, after a change of its settings."""

from __future__ import annotations

from research.algorithms.adoption import grown
from research.algorithms.gradient.agent import Agent, AgentConfig
from research.algorithms.outer import learned
from research.optim.differentiable import AdamState
from research.policies.changes import Change
from research.types import MetaParams, Params

MUTABLE = frozenset(
    {
        "inner_lr",
        "discount",
        "gae_lambda",
        "normalize_advantages",
        "episodes_per_task",
        "policy.hidden_sizes",
        "policy.activation",
    }
)
"""The settings of the agent that may change while it is trained."""

GROWING = frozenset({"policy.hidden_sizes"})
"""Those of them that can only grow."""

_RATE = "lr."


def adopt_meta(
    agent: Agent, meta: MetaParams, optimizer: AdamState, before: AgentConfig, iteration: int
) -> tuple[MetaParams, AdamState]:
    """Returns meta-parameters and Adam's state of an agent that goes on with those of other settings.

    What is meta-learned is carried, constants of the update rule are those of the agent's settings.

    Args:
        agent: The agent with the new settings.
        meta: The meta-parameters before.
        optimizer: Adam's state of the meta-learned tensors, named as by `learned`.
        before: The settings before.
        iteration: Finished iterations.

    Raises:
        ValueError: The policy is smaller, or the update rule depends on its layers in another way than a learning rate
            of each element does; or `inner_lr` is another one where the rates are learned.
    """
    config = agent.config
    if config.learn_inner_lr != "none" and config.inner_lr != before.inner_lr:
        raise ValueError(f"inner_lr={config.inner_lr}: it is the start of rates that are learned (learn_inner_lr="
                         f"{config.learn_inner_lr!r}), and changes none of them later; need {before.inner_lr}"
                         )  # fmt: skip
    if before.policy.hidden_sizes != config.policy.hidden_sizes:
        _check_sizes_can_change(config, len(before.policy.hidden_sizes) != len(config.policy.hidden_sizes))
    change = grown(before.policy, config.policy, agent.make_policy, meta.model, config.seed, iteration)
    model = change.params(meta.model)
    update = agent.inner_loop.init_update(agent.policy, model, config.num_inner_steps)
    rates = _of_rates(change.rates(_of_elements(meta.update)))
    update |= {
        name: value for name, value in {**meta.update, **rates}.items() if name in update and config.learns(name)
    }
    after = MetaParams(model, update)
    moments = (_moments(after, agent.config, change, mean, power) for power, mean in enumerate(optimizer[1:], start=1))
    return after, AdamState(optimizer.step, *moments)


def _check_sizes_can_change(config: AgentConfig, is_deeper: bool) -> None:
    if config.transform != "none":
        raise ValueError(f"policy.hidden_sizes: transform={config.transform!r} is learned for the sizes at the start; "
                         "they cannot change while it is trained")  # fmt: skip
    if config.adapt_only and is_deeper:
        raise ValueError(f"policy.hidden_sizes: adapt_only={config.adapt_only} names layers by their number, which "
                         "another layer changes; need as many layers as before")  # fmt: skip


def _moments(after: MetaParams, config: AgentConfig, change: Change, mean: Params, power: int) -> Params:
    """Returns means of the gradients (power 1) or of their squares (power 2), in the order of the learned tensors."""
    of_model = {name.removeprefix("model."): value for name, value in mean.items() if name.startswith("model.")}
    of_update = {name.removeprefix("update."): value for name, value in mean.items() if name.startswith("update.")}
    model = change.gradients(of_model) if power == 1 else change.squares(of_model)
    update = of_update | _of_rates(change.squares(_of_elements(of_update), 2 * power))
    found = MetaParams(model, update)
    return {name: getattr(found, name.partition(".")[0])[name.partition(".")[2]] for name in learned(after, config)}


def _of_elements(update: Params) -> Params:
    """Returns the tensors that have an element for each parameter, by the names of the parameters."""
    return {name.removeprefix(_RATE): value for name, value in update.items() if name.startswith(_RATE)}


def _of_rates(elements: Params) -> Params:
    return {_RATE + name: value for name, value in elements.items()}
