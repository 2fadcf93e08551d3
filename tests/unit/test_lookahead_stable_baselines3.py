"""Lookahead inside Stable-Baselines3: it makes, schedules, saves and loads the optimiser."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO

from research.optim import Lookahead, lookahead_around

SIZES = {
    PPO: {"n_steps": 16, "batch_size": 8, "n_epochs": 1},  # an optimiser step for each of two minibatches
    A2C: {"n_steps": 8},
    DQN: {"learning_starts": 8, "train_freq": 4, "batch_size": 4, "target_update_interval": 16},
}


ADAM = lookahead_around(torch.optim.Adam, k=3)


def made(kind, optimizer_class=ADAM):
    policy = {"optimizer_class": optimizer_class, "net_arch": [8]}
    return kind("MlpPolicy", gymnasium.make("CartPole-v1"), policy_kwargs=policy, seed=0, device="cpu", **SIZES[kind])


def weights(model):
    return [param.detach().clone() for param in model.policy.parameters()]


@pytest.mark.parametrize("kind", SIZES)
def test_training_syncs(kind):
    model = made(kind)
    optimizer = model.policy.optimizer
    assert isinstance(optimizer, Lookahead)
    assert isinstance(optimizer.base, torch.optim.Adam)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(optimizer.param_groups[0]["lookahead_steps"]))
    model.learn(64)
    assert len(steps) >= 6
    assert steps == [1, 2, 0] * (len(steps) // 3) + [1, 2][: len(steps) % 3]
    group = optimizer.param_groups[0]
    assert group["lr"] == model.lr_schedule(0), "the library sets the rate"


@pytest.mark.parametrize("kind", SIZES)
def test_a_saved_agent_has_its_slow_weights_and_goes_on(kind, tmp_path):
    """Saved in mid-cycle."""
    model = made(kind)
    model.learn(64)
    while model.policy.optimizer.param_groups[0]["lookahead_steps"] == 0:
        model.policy.optimizer.step()
    model.save(tmp_path / "agent")
    loaded = kind.load(tmp_path / "agent", env=model.get_env(), device="cpu")
    optimizer, original = loaded.policy.optimizer, model.policy.optimizer
    assert isinstance(optimizer, Lookahead)
    for ours, theirs in zip(optimizer.slow.values(), original.slow.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert any(not torch.equal(p, slow) for p, slow in optimizer.slow.items())
    gradients = [torch.ones_like(param) for param in weights(model)]
    for each in (model, loaded):
        for _ in range(4):
            for param, gradient in zip(each.policy.parameters(), gradients, strict=True):
                param.grad = gradient
            each.policy.optimizer.step()
    for ours, theirs in zip(weights(loaded), weights(model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_agent_acts_with_its_slow_weights():
    model = made(PPO)
    model.learn(16)
    observation = np.zeros((1, 4), np.float32)
    fast = model.policy.get_distribution(torch.from_numpy(observation)).distribution.logits
    with model.policy.optimizer.slow_weights():
        slow = model.policy.get_distribution(torch.from_numpy(observation)).distribution.logits
    assert not torch.equal(fast, slow)


def test_alpha_one_is_the_library_without_it():
    results = []
    for optimizer_class in (lookahead_around(torch.optim.AdamW, k=3, alpha=1.0), torch.optim.AdamW):
        model = made(PPO, optimizer_class)
        results.append(weights(model.learn(64)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_guide_keeps_the_librarys_own_adam():
    """The library gives Adam, and no other class, an `eps` of its own in PPO."""
    page = (Path(__file__).parents[2] / "docs" / "lookahead.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^  ```python\n(.*?)^  ```$", page, re.MULTILINE | re.DOTALL)
    env = gymnasium.make("CartPole-v1")
    names = {"PPO": PPO, "torch": torch, "lookahead_around": lookahead_around, "env": env}
    exec(textwrap.dedent(block), names)
    ours, theirs = names["agent"].policy.optimizer, PPO("MlpPolicy", env).policy.optimizer
    assert isinstance(ours, Lookahead) and isinstance(ours.base, torch.optim.Adam)
    for key, value in theirs.param_groups[0].items():
        if key != "params":
            assert ours.param_groups[0][key] == value, key
    assert theirs.param_groups[0]["eps"] == 1e-5
