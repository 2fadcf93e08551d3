"""Algorithms whose settings change while they train: what is carried, what is theirs, and what they refuse."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from td_problem import make_batch, make_config, make_network, params_of
from torch.utils import _pytree as pytree

from research.algorithms import ALGORITHMS, AdoptsStates
from research.algorithms.gradient.maml_ppo import MAMLPPO, MAMLPPOConfig
from research.algorithms.memory.rl2 import RL2, RL2Config
from research.algorithms.value.adoption import adopt_learner
from research.algorithms.value.learner import TDLearner
from research.algorithms.value.lookahead_dqn import LookaheadDQN, LookaheadDQNConfig, ReplayConfig
from research.conversion import flatten, to_mapping
from research.plain_state import from_plain, to_plain
from research.policies import PolicyConfig
from research.policies.changes import unchanged
from research.policies.memory import MemoryConfig
from research.policies.q_network import QNetworkConfig

MAML = MAMLPPOConfig(
    task="grid_goals",
    task_args={"size": 3, "test_fraction": 0.5},
    meta_batch_size=3,
    episodes_per_task=3,
    horizon=6,
    num_eval_tasks=3,
    eval_episodes=3,
    policy=PolicyConfig((4, 3), "relu"),
    num_inner_steps=2,
    num_threads=1,
    dtype="float64",
)
MEMORY = RL2Config(
    task="cartpole_params",
    meta_batch_size=4,
    episodes_per_trial=2,
    horizon=10,
    policy=MemoryConfig(4),
    num_epochs=2,
    num_minibatches=2,
    num_eval_tasks=4,
    num_threads=1,
    dtype="float64",
)
DQN = LookaheadDQNConfig(
    task="cartpole_params",
    horizon=20,
    network=QNetworkConfig((5, 4)),
    meta_batch_size=2,
    batch_size=8,
    learning_starts=8,
    train_freq=8,
    gradient_steps=3,
    phases_per_iteration=2,
    lookahead_k=4,
    lookahead_inner_state="pullback",
    target="polyak",
    replay=ReplayConfig(200),
    dtype="float64",
)
CASES: dict[str, tuple[Any, Any]] = {
    "maml_ppo": (MAMLPPO, MAML),
    "rl2": (RL2, MEMORY),
    "lookahead_dqn": (LookaheadDQN, DQN),
}
"""Algorithm and settings by name."""

WIDER: dict[str, dict[str, Any]] = {
    "maml_ppo": {"policy": PolicyConfig((7, 7, 5), "relu")},
    "rl2": {"policy": MemoryConfig(7)},
    "lookahead_dqn": {"network": QNetworkConfig((8, 8, 6))},
}


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """A state of each algorithm after two iterations."""
    states = {}
    for name, (kind, config) in CASES.items():
        algorithm = kind(config)
        state = algorithm.init()
        for _ in range(2):
            state = algorithm.step(state).state
        states[name] = state
    return states


def same(first: Any, second: Any) -> bool:
    pairs = zip(pytree.tree_leaves(to_plain(first)), pytree.tree_leaves(to_plain(second)), strict=True)
    return all(torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two for one, two in pairs)


@pytest.mark.parametrize("name", CASES)
def test_without_a_change_the_state_stays(name, trained):
    kind, config = CASES[name]
    state = trained[name]
    assert same(kind(config).adopt(state, config, state), state)


@pytest.mark.parametrize("name", CASES)
def test_a_larger_network_goes_on(name, trained):
    kind, config = CASES[name]
    state, wider = trained[name], kind(dataclasses.replace(config, **WIDER[name]))
    adopted = wider.adopt(state, config, state)
    assert same(adopted, wider.adopt(state, config, state))
    from_plain(to_plain(adopted), wider.init())  # raises unless a checkpoint of it can be restored
    after = wider.step(adopted).state
    assert after.iteration == 3
    assert all(value.isfinite().all() for value in pytree.tree_leaves(after) if isinstance(value, torch.Tensor)
               and value.is_floating_point())  # fmt: skip


def test_larger_policies_act_alike(trained):
    algorithm, wider = MAMLPPO(MAML), MAMLPPO(dataclasses.replace(MAML, **WIDER["maml_ppo"]))
    state = trained["maml_ppo"]
    adopted = wider.adopt(state, MAML, state)
    seen = torch.randn(5, state.meta.model["logits.0.weight"].shape[1], dtype=torch.float64)
    outputs = (
        torch.func.functional_call(agent.policy, params, (seen,)).logits
        for agent, params in ((algorithm.agent, state.meta.model), (wider.agent, adopted.meta.model))
    )
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)


def test_larger_q_networks_keep_values_targets_and_slow_weights(trained):
    algorithm, wider = LookaheadDQN(DQN), LookaheadDQN(dataclasses.replace(DQN, **WIDER["lookahead_dqn"]))
    state = trained["lookahead_dqn"]
    adopted = wider.adopt(state, DQN, state)
    seen = torch.randn(6, state.meta.model["value.0.weight"].shape[1], dtype=torch.float64)

    def values(design: Any, params: Any) -> torch.Tensor:
        return torch.func.functional_call(design.network, params, (seen,))

    def named(design: Any, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        like = dict(design.network.named_parameters())
        pieces = flat.split([value.numel() for value in like.values()])
        return {name: piece.view(value.shape) for (name, value), piece in zip(like.items(), pieces, strict=True)}

    slow = [one.learner.optimizer["lookahead"]["slow"][0] for one in (state, adopted)]
    pairs = [
        (state.meta.model, adopted.meta.model),
        (state.learner.target, adopted.learner.target),
        (named(algorithm, slow[0]), named(wider, slow[1])),
    ]
    for before, after in pairs:
        torch.testing.assert_close(values(algorithm, before), values(wider, after), rtol=0, atol=1e-12)
    assert adopted.learner.optimizer["state"][0]["exp_avg"].shape == slow[1].shape
    assert set(adopted.learner.optimizer["lookahead"]["slow_state"][0]) == {"exp_avg", "exp_avg_sq"}


def test_transitions_and_episodes_stay_those_of_the_run(trained):
    other = dataclasses.replace(DQN, seed=7)
    algorithm = LookaheadDQN(other)
    own = algorithm.step(algorithm.step(algorithm.init()).state).state
    state = trained["lookahead_dqn"]
    adopted = algorithm.adopt(state, DQN, own)
    assert same(adopted.replay, own.replay)
    assert same(adopted.moment, own.moment)
    assert same(adopted.meta, state.meta)
    assert same(adopted.learner, state.learner)
    assert not same(own.meta, state.meta)


@pytest.mark.parametrize(
    ("name", "changes", "find"),
    [
        ("maml_ppo", {"inner_lr": 0.03}, lambda state: state.meta.update["lr"]),
        ("maml_ppo", {"kl_coef": 0.25}, lambda state: state.kl_coef[1]),
        ("lookahead_dqn", {"inner_lr": 0.03}, lambda state: state.learner.optimizer["param_groups"][0]["lr"]),
        ("lookahead_dqn", {"lookahead_k": 9}, lambda state: state.learner.optimizer["param_groups"][0]["lookahead_k"]),
        ("lookahead_dqn", {"lookahead_alpha": 0.25},
         lambda state: state.learner.optimizer["param_groups"][0]["lookahead_alpha"]),
    ],
)  # fmt: skip
def test_settings_that_a_state_holds_take_effect(name, changes, find, trained):
    kind, config = CASES[name]
    (value,) = changes.values()
    assert float(find(trained[name])) != value
    assert (
        float(find(kind(dataclasses.replace(config, **changes)).adopt(trained[name], config, trained[name]))) == value
    )


def test_adapted_coefficients_are_scaled():
    before, after = (MAMLPPO(dataclasses.replace(MAML, adaptive_kl=True, kl_coef=coef)) for coef in (0.5, 0.25))
    state = before.init()._replace(kl_coef=torch.tensor([0.5, 4.0], dtype=torch.float64))
    assert after.adopt(state, before.config, state).kl_coef.tolist() == [0.25, 2.0]


def test_learned_rates_are_carried_and_steps_are_the_same():
    """With a rate for each element, the policies after adaptation are the same function, too."""
    learn = dict(learn_inner_lr="per_parameter", num_inner_steps=1)
    config = dataclasses.replace(MAML, **learn)
    algorithm = MAMLPPO(config)
    state = algorithm.step(algorithm.init()).state
    wider = MAMLPPO(dataclasses.replace(config, policy=PolicyConfig((9, 6), "relu")))
    adopted = wider.adopt(state, config, state)
    assert adopted.meta.update.keys() == state.meta.update.keys() == {f"lr.{name}" for name in state.meta.model}
    assert adopted.optimizer.exp_avg["update.lr.logits.0.weight"].shape == (
        9,
        *state.meta.model["logits.0.weight"].shape[1:],
    )
    count = adopted.meta.update["lr.logits.0.bias"][:4] / state.meta.update["lr.logits.0.bias"]
    torch.testing.assert_close(count, count.round())
    assert count.max() > 1.5


@pytest.mark.parametrize("after", [3, 5, 7])
def test_copies_to_the_target_stay_in_phase_with_syncs(after):
    """The target network is Lookahead's slow weights, also once another k is adopted in the middle of a cycle."""
    before, config = (make_config(target="slow", lookahead_k=k, inner_lr=0.1) for k in (4, after))
    network = make_network()
    learner = TDLearner(before, network, params_of(network))
    for seed in range(6):
        learner.step(make_batch(seed))
    params = learner.online.params()
    state = adopt_learner(learner.state(), params, unchanged(params), before, config)
    learner, copies = TDLearner(config, network, params, state), 0
    for seed in range(6, 6 + 3 * after):
        learner.step(make_batch(seed))
        slow = learner.state().optimizer["lookahead"]["slow"][0]
        if learner.steps % after == 0:
            copies += 1
            assert torch.equal(learner.target.flat, learner.online.flat)
            assert torch.equal(learner.target.flat, slow)
        elif copies:
            assert torch.equal(learner.target.flat, slow)
    assert copies == 3


@pytest.mark.parametrize(
    ("first", "second"), [("maintain", "pullback"), ("reset", "pullback"), ("pullback", "maintain")]
)
def test_another_treatment_of_the_inner_state_begins_with_the_moments_there_are(first, second):
    before, config = (make_config(lookahead_k=4, lookahead_inner_state=name) for name in (first, second))
    network = make_network()
    learner = TDLearner(before, network, params_of(network))
    for seed in range(6):
        learner.step(make_batch(seed))
    params = learner.online.params()
    adopted = adopt_learner(learner.state(), params, unchanged(params), before, config).optimizer
    moments, kept = adopted["state"][0], adopted["lookahead"]["slow_state"][0]
    assert kept.keys() == ({"exp_avg", "exp_avg_sq"} if second == "pullback" else set())
    for name, value in kept.items():
        assert torch.equal(value, moments[name]) and value.abs().max() > 0
        assert value.data_ptr() != moments[name].data_ptr()


class TestRefusals:
    def test_of_another_start_of_rates_that_are_learned(self):
        config = dataclasses.replace(MAML, learn_inner_lr="per_step")
        state = MAMLPPO(config).init()
        other = MAMLPPO(dataclasses.replace(config, inner_lr=0.03))
        with pytest.raises(ValueError, match=r"inner_lr=0.03: .*learn_inner_lr='per_step'.*; need 0.1"):
            other.adopt(state, config, state)

    def test_of_what_cannot_be_carried(self, trained):
        smaller = MAMLPPO(dataclasses.replace(MAML, policy=PolicyConfig((4, 2), "relu")))
        with pytest.raises(ValueError, match="need those of \\[4, 3\\]"):
            smaller.adopt(trained["maml_ppo"], MAML, trained["maml_ppo"])
        without = LookaheadDQN(dataclasses.replace(DQN, lookahead_k=0))
        with pytest.raises(ValueError, match="lookahead_k=0: the state has lookahead_k=4"):
            without.adopt(trained["lookahead_dqn"], DQN, trained["lookahead_dqn"])

    def test_of_layers_that_are_named_by_number(self):
        config = dataclasses.replace(MAML, adapt_only=("logits.4.*",))
        state = MAMLPPO(config).init()
        deeper = MAMLPPO(dataclasses.replace(config, policy=PolicyConfig((4, 4, 3), "relu")))
        with pytest.raises(ValueError, match=r"policy\.hidden_sizes: adapt_only"):
            deeper.adopt(state, config, state)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_has_mutable_settings_if_it_adopts_states(name):
    config_class = ALGORITHMS[name].Config
    mutable, growing = config_class.mutable_settings, config_class.growing_settings
    known = flatten(to_mapping(config_class()))
    assert config_class.deepening_settings <= growing <= mutable
    assert all(any(f"{key}.".startswith(f"{one}.") for key in known) for one in mutable)
    assert bool(mutable) == issubclass(ALGORITHMS[name], AdoptsStates)
    assert not mutable & {"seed", "task", "task_args", "num_iterations", "dtype", "horizon"}


def test_lists_that_can_get_layers_are_those_of_perceptrons():
    """RL² has none: the hidden layers of its heads can get units only."""
    assert MAMLPPOConfig.deepening_settings == {"policy.hidden_sizes"}
    assert LookaheadDQNConfig.deepening_settings == {"network.hidden_sizes"}
    assert not RL2Config.deepening_settings
