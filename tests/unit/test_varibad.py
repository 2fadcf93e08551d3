"""VariBAD and task inference: which loss trains what, against the loss in one piece; sampling; settings."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from research import rng
from research.algorithms.memory import inference_update
from research.algorithms.memory.inference import draw_times, inference_terms
from research.algorithms.memory.inference_config import InferenceConfig
from research.algorithms.memory.inference_update import belief_parameters
from research.algorithms.memory.varibad import VariBAD
from research.policies.decoders import DecoderConfig
from research.policies.memory import MemoryConfig
from research.sampling.trials import bind

POLICY = MemoryConfig(4, head="state", head_hidden_sizes=(5,), belief_size=2, output_scale=1.0)
SMALL = InferenceConfig(
    task="cartpole_params",
    meta_batch_size=4,
    trials_per_task=2,
    episodes_per_trial=2,
    horizon=30,
    policy=POLICY,
    num_minibatches=2,
    num_inference_minibatches=1,
    num_elbo_times=3,
    num_eval_tasks=8,
    decoder=DecoderConfig((5, 4)),
    dtype="float64",
    num_threads=1,
)
TASK = dict(task="navigation_2d", horizon=5, inference="task", num_elbo_times=8)


def made(**changes):
    return VariBAD(dataclasses.replace(SMALL, **changes))


def of_belief(algorithm):
    return belief_parameters(algorithm.agent.policy)


def changed(before, after):
    """Names of what moved by more than a step of 1e-300 moves anything."""
    return {name for name, value in before.items() if (value - after[name]).abs().max() > 1e-200}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        TASK,
        dict(policy=dataclasses.replace(POLICY, memory="set")),
        dict(policy=dataclasses.replace(POLICY, memory="transformer", num_attention_heads=2)),
    ],
)
def test_each_loss_trains_its_own_parameters(changes):
    """Without a step of one of the optimisers, what moves is what the other one trains."""
    algorithm = made(**changes)
    own = of_belief(algorithm)
    assert own == {name for name, _ in algorithm.agent.policy.named_parameters() if name.startswith(("body", "belief"))}
    state = algorithm.init()
    names = state.meta.model.keys()
    decoders = {name for name in names if name.startswith("decoder_")}
    assert state.optimizer.exp_avg.keys() == names - own - decoders
    assert state.inference_optimizer.exp_avg.keys() == own | decoders
    after, _ = algorithm.step(state)
    assert changed(state.meta.model, after.meta.model) == names
    still = made(**changes, inference_lr=1e-300).step(state).state
    assert changed(state.meta.model, still.meta.model) == names - own - decoders
    still = made(**changes, meta_lr=1e-300).step(state).state
    assert changed(state.meta.model, still.meta.model) == own | decoders


def test_the_gradient_of_the_policy_can_reach_the_memory():
    algorithm = made(policy=dataclasses.replace(POLICY, belief_gradient=True), inference_lr=1e-300)
    state = algorithm.init()
    assert of_belief(algorithm) < state.optimizer.exp_avg.keys()
    after, _ = algorithm.step(state)
    assert of_belief(algorithm) <= changed(state.meta.model, after.meta.model)


def sampled(algorithm):
    state = algorithm.init()
    samples = algorithm.agent.sample(state.meta.model, state.scale, 0)
    return state, algorithm._inferred_trials(samples), samples


def obvious_gradient(algorithm, params, trials):
    """Gradient and metrics of the loss of all trials as one graph."""
    config, time = algorithm.config, trials.valid.shape[1]
    generator = rng.torch_generator(config.seed, "inference", 0, 0)
    times, counted = torch.arange(time).expand(len(trials.valid), -1), trials.valid
    if config.inference == "varibad" and config.num_elbo_times:
        times, counted = draw_times(trials.valid, config.num_elbo_times, generator)
    noise = torch.randn((*times.shape, config.policy.belief_size), generator=generator, dtype=torch.float64)
    policy, decoders = (
        bind(module, params, requires_grad=True) for module in (algorithm.agent.policy, algorithm.decoders)
    )
    belief = policy(trials.inputs, policy.initial_state(len(times))).belief
    terms = inference_terms(decoders, algorithm.inference.model, belief, times, noise, trials.decoded, trials.target)
    bound = config.reward_coef * terms.reward + config.transition_coef * terms.transition + terms.task
    loss = ((config.kl_coef * terms.kl - bound) * counted).sum() / counted.sum()
    leaves = {**dict(policy.named_parameters()), **dict(decoders.named_parameters())}
    learned = {
        name: leaf
        for name, leaf in leaves.items()
        if name in of_belief(algorithm) or name not in params_of_policy(algorithm)
    }
    gradient = dict(zip(learned, torch.autograd.grad(loss, list(learned.values())), strict=True))
    return gradient, type(terms)(*(leaf.detach() for leaf in terms)), counted


def params_of_policy(algorithm):
    return {name for name, _ in algorithm.agent.policy.named_parameters()}


@pytest.mark.parametrize(
    "changes",
    [
        dict(kl_coef=0.3, reward_coef=0.5, transition_coef=2.0),
        dict(task="tabular_mdp", horizon=4, num_elbo_times=0),
        dict(task="bandit", horizon=1, episodes_per_trial=7, decoder=DecoderConfig((4,), reward="bernoulli")),
        TASK,
        TASK | dict(task="grid_goals"),
    ],
)
def test_the_gradient_in_parts_is_that_of_the_loss_in_one_piece(changes, monkeypatch):
    algorithm = made(**changes)
    state, trials, _ = sampled(algorithm)
    params = state.meta.model
    expected, terms, counted = obvious_gradient(algorithm, params, trials)
    for most, count in ((10**9, 4), (1, 8)):
        monkeypatch.setattr(inference_update, "_PART_DECODED", most)
        (parts,) = algorithm.inference._minibatches(trials, 0, 0)
        assert len(parts) == count
        modules = (bind(module, params, requires_grad=True) for module in (algorithm.agent.policy, algorithm.decoders))
        ours, sums = algorithm.inference._gradient(*modules, parts)
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12)
        metrics = algorithm.inference._metrics(sums)
        mean_kl = (terms.kl * counted).sum() / counted.sum()
        assert metrics["belief_kl"] == pytest.approx(float(mean_kl))
        if "elbo" in metrics:
            elbo = ((terms.reward + terms.transition - terms.kl) * counted).sum() / counted.sum()
            assert metrics["elbo"] == pytest.approx(float(elbo))
        else:
            assert metrics["task_loss"] == pytest.approx(-float((terms.task * counted).sum() / counted.sum()))


def test_what_is_decoded_is_what_happened():
    algorithm = made(task="navigation_2d", horizon=5)
    _, trials, samples = sampled(algorithm)
    decoded, seen = trials.decoded, samples.trials
    start = torch.zeros(2, dtype=torch.float64)
    for row in range(8):
        task, trial = divmod(row, 2)
        goal = torch.as_tensor(samples.tasks.goal[task])
        for t in range(int(decoded.valid[row].sum())):
            moved = decoded.observation[row, t] + 0.1 * decoded.action[row, t].clamp(-1, 1)
            torch.testing.assert_close(decoded.next_observation[row, t], moved, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(decoded.reward[row, t], -(moved - goal).norm(), rtol=1e-5, atol=1e-6)
            if seen.ended[task, trial, t] and t + 1 < decoded.valid.shape[1]:
                assert torch.equal(decoded.observation[row, t + 1], start), "the next episode has started"
                assert not torch.equal(decoded.next_observation[row, t], start)


def test_epochs_of_the_policy_read_beliefs_that_are_computed_once(monkeypatch):
    """The update is the one of passes through the memory, as no step of PPO changes a belief."""
    algorithm, plain = made(num_epochs=2), made(num_epochs=2)
    monkeypatch.setattr(plain, "_read", lambda params, steps: steps)
    state = algorithm.init()
    ours, theirs = algorithm.step(state), plain.step(state)
    for name, value in theirs.state.meta.model.items():
        torch.testing.assert_close(ours.state.meta.model[name], value, rtol=1e-9, atol=1e-12)
    params, steps = state.meta.model, algorithm.agent.sample(state.meta.model, state.scale, 0).steps
    read = algorithm._read(params, steps).inputs.belief
    expected = bind(algorithm.agent.policy, params).believe(steps.inputs)
    torch.testing.assert_close(read, torch.cat(expected, -1), rtol=1e-12, atol=1e-14)
    for changes in (dict(belief_gradient=True), dict(separate_value=True)):
        other = made(policy=dataclasses.replace(POLICY, **changes))
        assert other._read(params, steps) is steps


@pytest.mark.parametrize("memory", ["gru", "set"])
def test_minibatches_have_parts_for_several_threads_whatever_the_memory(memory):
    algorithm = made(policy=dataclasses.replace(POLICY, memory=memory))
    _, trials, _ = sampled(algorithm)
    (parts,) = algorithm.inference._minibatches(trials, 0, 0)
    assert len(parts) == 4 and sum(len(part.times) for part in parts) == 8


@pytest.mark.parametrize("changes", [{}, TASK])
def test_threads_change_nothing(changes):
    """With several parts in a minibatch, one thread and three give the same bits."""
    made_of = (made(**changes, num_threads=count, dtype="float32") for count in (1, 3))
    first, second = (pytree.tree_leaves(algorithm.step(algorithm.init()).state) for algorithm in made_of)
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second, strict=True))


def test_a_gradient_that_is_not_finite_is_refused_by_its_name():
    algorithm = made()
    state, trials, _ = sampled(algorithm)
    params = state.meta.model | {"belief.bias": torch.full_like(state.meta.model["belief.bias"], math.inf)}
    with pytest.raises(FloatingPointError, match=r"inference_gradient_norm=.*lower inference_lr"):
        algorithm.inference(params, state.inference_optimizer, trials, 0)


def test_a_linear_head_serves_where_it_can_act_upon_the_observation():
    linear = MemoryConfig(4, belief_size=2)
    for policy, task in (
        (linear, dict(task="bandit", horizon=1, num_elbo_times=1)),
        (dataclasses.replace(linear, belief_gradient=True), {}),
        (dataclasses.replace(linear, per_state_heads=True), dict(task="gridnavi")),
    ):
        assert made(policy=policy, **task).config.policy.head == "linear"


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["varibad", "task"])
def test_a_belief_about_a_bandit_comes_to_know_it(inference):
    """Two arms that pay 1 with probability p, seen through 20 pulls: the loss falls well below that of the prior."""
    algorithm = made(
        task="bandit",
        task_args={"num_arms": 2},
        horizon=1,
        episodes_per_trial=20,
        meta_batch_size=200,
        trials_per_task=1,
        num_epochs=1,
        dtype="float32",
        inference=inference,
        inference_lr=2e-2,
        num_inference_epochs=2,
        num_inference_minibatches=4,
        num_iterations=25,
        kl_coef=1.0 if inference == "varibad" else 0.001,
        policy=dataclasses.replace(POLICY, hidden_size=16),
        num_elbo_times=3 if inference == "varibad" else 8,
        decoder=DecoderConfig((16,), reward="bernoulli" if inference == "varibad" else "gaussian"),
    )
    state = algorithm.init()
    seen = []
    for _ in range(25):
        state, metrics = algorithm.step(state)
        seen.append(metrics["reward_loss" if inference == "varibad" else "task_loss"])
    if inference == "varibad":
        assert np.mean(seen[-5:]) < 0.62 < 0.68 < seen[0], (
            "E[entropy of a Bernoulli, p ~ U(0, 1)] is ½, the prior's log 2"
        )
    else:
        assert np.mean(seen[-5:]) < seen[0] - 0.8
        assert np.mean(seen[-5:]) < 0.0, "the density of two numbers uniform on [0, 1] has the log 0"


@pytest.mark.parametrize("changes", [{}, TASK])
def test_extreme_beliefs_have_finite_losses_and_gradients(changes):
    """Unbounded, their variances would overflow. The update raises an error if its gradient is not finite."""
    algorithm = made(dtype="float32", **changes)
    state = algorithm.init()
    model = {name: 1e3 * value if name.startswith("belief.") else value for name, value in state.meta.model.items()}
    metrics = algorithm.step(state._replace(meta=state.meta._replace(model=model))).metrics
    assert math.isfinite(metrics["belief_kl"]) and math.isfinite(metrics["task_loss" if changes else "elbo"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(policy=MemoryConfig(4)), "policy.belief_size=0: inference='varibad' trains a belief"),
        (dict(TASK, policy=MemoryConfig(4)), "policy.belief_size=0: inference='task' trains a belief"),
        (
            dict(inference="task"),
            "inference='task': task='cartpole_params' knows no parameters of its tasks to predict",
        ),
        (dict(inference="task", task="gym_env"), "bandit, .*navigation_2d, .* do; need 'varibad'"),
        (dict(policy=MemoryConfig(4, belief_size=2)), "policy.head='linear': it reads the belief alone"),
        (dict(TASK, policy=MemoryConfig(4, belief_size=2)), "policy.head='linear': it reads the belief alone"),
        (dict(inference="rnn"), "inference='rnn': need one of 'varibad', 'task'"),
        (
            dict(num_elbo_times=61),
            r"num_elbo_times=61: need at most 60, the steps of a trial \(2 episodes\); 0 for all",
        ),
        (dict(num_inference_minibatches=9), "num_inference_minibatches=9: need at most 8, the trials of an iteration"),
        (dict(num_inference_epochs=0), "num_inference_epochs=0: need at least 1"),
        (dict(inference_lr=0.0), "inference_lr=0.0: need a value above 0"),
        (dict(kl_coef=-1.0), "kl_coef=-1.0: need at least 0"),
        (dict(chunk_length=5), "chunk_length=5: a belief is trained through whole trials; need 0"),
        (dict(reward_coef=0.0, transition_coef=0.0), "reward_coef=0: need a value above 0"),
        (dict(task="bandit", horizon=1, episodes_per_trial=9, reward_coef=0.0), "reward_coef=0: need a value above 0"),
        (dict(decoder=DecoderConfig(reward_per_state=True)), "decoder.reward_per_state=True: it is for one-hot"),
        (TASK | dict(num_elbo_times=61), "num_elbo_times=61: inference='task' does not read it; need 8"),
        (TASK | dict(transition_coef=2.0), "transition_coef=2.0: inference='task' does not read it; need 1.0 or 0.0"),
        (TASK | dict(reward_coef=2.0), "reward_coef=2.0: inference='task' does not read it"),
        (TASK | dict(decoder=DecoderConfig(reward="bernoulli")), "decoder.reward='bernoulli': inference='task' does"),
        (TASK | dict(decoder=DecoderConfig(transition_std=2.0)), "decoder.transition_std=2.0: inference='task' does"),
        (dict(reward_coef=0.0, decoder=DecoderConfig(reward_std=2.0)), "decoder.reward_std=2.0: reward_coef=0 decodes"),
        (
            dict(transition_coef=0.0, decoder=DecoderConfig(transition_std=2.0)),
            r"decoder.transition_std=2.0: no continuous observation is decoded \(Box.*, transition_coef=0\); need 1.0",
        ),
        (
            dict(task="tabular_mdp", decoder=DecoderConfig(transition_std=2.0)),
            r"decoder.transition_std=2.0: no continuous observation is decoded \(OneHot\(10\)",
        ),
        (
            dict(task="bandit", horizon=1, episodes_per_trial=9, transition_coef=2.0),
            "transition_coef=2.0: all observations are equal and none is decoded; need 1.0 or 0.0",
        ),
        (
            dict(update="trpo", policy=dataclasses.replace(POLICY, separate_value=True)),
            "update='trpo': need 'ppo', the belief has an update of its own",
        ),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)
