"""What the tests of TD learning share: small settings, random minibatches, and TD steps as an obvious loop."""

from __future__ import annotations

import torch
from torch.func import functional_call

from research.algorithms.value.lookahead_dqn import LookaheadDQNConfig
from research.policies.q_network import DuelingQNetwork, QNetwork, QNetworkConfig
from research.td import TransitionBatch

OBSERVATIONS, ACTIONS = 3, 4


def make_config(kind=LookaheadDQNConfig, **settings):
    """Settings in float64 that take a moment."""
    return kind(**{"dtype": "float64", "batch_size": 8, "network": QNetworkConfig((6, 5), "tanh"), **settings})


def make_network(seed=0, dueling=False, activation="tanh"):
    """A network of its own for each seed."""
    kind = DuelingQNetwork if dueling else QNetwork
    return kind((OBSERVATIONS, 6, 5, ACTIONS), activation, generator=torch.Generator().manual_seed(seed)).double()


def params_of(network):
    """Copies of its parameters."""
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def make_batch(seed=0, *leading, batch=8):
    """A random minibatch; some transitions end the task, weights differ."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*leading, batch, *shape, generator=generator, dtype=torch.float64)

    goes_on = torch.rand(*leading, batch, generator=generator) > 0.2
    return TransitionBatch(
        normal(OBSERVATIONS),
        torch.randint(ACTIONS, (*leading, batch), generator=generator),
        normal(),
        0.9 * goes_on.double(),
        normal(OBSERVATIONS),
        torch.rand(*leading, batch, generator=generator, dtype=torch.float64),
    )


def loop_loss(network, params, target_params, batch, double=False, kind="huber"):
    """The TD loss, transition by transition."""
    total = 0.0
    for i in range(len(batch.action)):
        with torch.no_grad():
            following = functional_call(network, target_params, (batch.next_observation[i : i + 1],))[0]
            online = functional_call(network, params, (batch.next_observation[i : i + 1],))[0]
            best = online.argmax() if double else following.argmax()
            target = batch.reward[i] + batch.bootstrap[i] * following[best]
        error = functional_call(network, params, (batch.observation[i : i + 1],))[0, batch.action[i]] - target
        is_small = kind == "mse" or error.abs() < 1
        total = total + batch.weight[i] * (error**2 / 2 if is_small else error.abs() - 0.5)
    return total / len(batch.action)
