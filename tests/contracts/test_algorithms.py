"""What holds for every registered algorithm, each with settings that take a moment."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from research.algorithms import ALGORITHMS
from research.algorithms.memory.sources import SourceConfig
from research.algorithms.value.lookahead_dqn import ReplayConfig
from research.checkpoint import Checkpoints, load
from research.conversion import ConfigError, from_mapping, to_mapping
from research.policies import PolicyConfig
from research.policies.decoders import DecoderConfig
from research.policies.memory import MemoryConfig
from research.policies.q_network import QNetworkConfig
from research.tasks.splits import SplitName
from research.tracking.restart import find_start
from research.tracking.settings import Settings

TRIALS: dict[str, Any] = dict(
    task="cartpole_params",
    meta_batch_size=3,
    final_meta_batch_size=5,
    trials_per_task=2,
    episodes_per_trial=2,
    horizon=12,
    num_epochs=2,
    num_minibatches=2,
    eval_trials=2,
    num_threads=2,
)
TINY: dict[str, dict[str, Any]] = {
    "maml_trpo": dict(
        meta_batch_size=3, episodes_per_task=2, horizon=6, eval_episodes=2, policy=PolicyConfig((4,)), num_threads=2
    ),
    "maml_ppo": dict(
        meta_batch_size=3,
        episodes_per_task=2,
        horizon=6,
        eval_episodes=2,
        policy=PolicyConfig((4,)),
        num_threads=2,
        estimator="lvc",
        num_inner_steps=2,
        num_epochs=2,
        num_minibatches=2,
        adaptive_kl=True,
    ),
    "fomaml": dict(
        meta_batch_size=3, episodes_per_task=2, horizon=6, eval_episodes=2, policy=PolicyConfig((4,)), num_threads=2
    ),
    "reptile": dict(
        meta_batch_size=3, episodes_per_task=2, horizon=6, eval_episodes=2, policy=PolicyConfig((4,)), num_threads=2
    ),
    "maml_regression": dict(updates_per_iteration=2, meta_batch_size=3, hidden_sizes=(5,), eval_query_points=4),
    "reptile_regression": dict(
        anneal_from=1.0, updates_per_iteration=2, meta_batch_size=3, hidden_sizes=(5,), eval_query_points=4
    ),
    "rl2": dict(TRIALS, policy=MemoryConfig(4)),
    "varibad": dict(
        TRIALS,
        policy=MemoryConfig(4, head="state", head_hidden_sizes=(4,), belief_size=2),
        decoder=DecoderConfig((4,)),
        num_elbo_times=2,
        num_inference_epochs=2,
        num_inference_minibatches=2,
    ),
    "distillation": dict(
        task="tabular_mdp",
        horizon=4,
        episodes_per_trial=3,
        num_histories=8,
        source=SourceConfig(num_episodes=6),
        keep_every=2,
        meta_batch_size=5,
        updates_per_iteration=2,
        policy=MemoryConfig(8, memory="transformer", num_attention_heads=2, context_length=32),
        eval_trials=2,
        num_threads=2,
    ),
    "lookahead_games": dict(meta_batch_size=3, num_cycles=2),
    "lookahead_dqn": dict(
        task="cartpole_params",
        meta_batch_size=2,
        horizon=9,
        network=QNetworkConfig((5,)),
        batch_size=4,
        lookahead_k=3,
        target_interval=2,
        replay=ReplayConfig(60, priority_exponent=0.6),
        learning_starts=10,
        train_freq=7,
        gradient_steps=4,
        phases_per_iteration=3,
        adapt_transitions=8,
        eval_episodes=2,
    ),
    "reptile_dqn": dict(
        task="cartpole_params",
        meta_batch_size=3,
        horizon=9,
        network=QNetworkConfig((5,), dueling=True),
        batch_size=4,
        num_inner_steps=2,
        adapt_transitions=8,
        adapt_epsilon=0.5,
        anneal_from=1.0,
        eval_episodes=2,
    ),
    "maml_dqn": dict(
        task="tabular_mdp",
        meta_batch_size=3,
        horizon=9,
        network=QNetworkConfig((5,)),
        batch_size=4,
        num_inner_steps=2,
        adapt_transitions=8,
        eval_episodes=2,
    ),
}
# Conjugate gradient turns the last bit into the third digit once it has found the few directions that six steps show.
FEW_PRODUCTS: dict[str, dict[str, Any]] = {"maml_trpo": dict(cg_iterations=4)}
# Two numbers are learned, which start where the settings say.
NOTHING_DRAWN_AT_THE_START = ("lookahead_games",)
WITH_INNER_LOOP = [name for name, kind in ALGORITHMS.items() if "inner_loop" in kind.Config.__dataclass_fields__]
ABOUT_EVALUATIONS = re.compile(r"eval_(?!interval)|num_eval|num_adapt|adapt_(?!only)|.*_adapt_step|.*_score$")
OTHERWISE_EVALUATED: dict[str, Any] = dict(
    seed=7,
    num_eval_tasks=3,
    eval_split="validation",
    num_adapt_steps=2,
    inner_loop="higher",
    eval_inner_lr=0.3,
    horizon=8,
    num_threads=1,
    eval_episodes=3,
    eval_trials=3,
    eval_actions="mode",
    eval_query_points=6,
    adapt_transitions=16,
    adapt_actions="least_tried",
    adapt_epsilon=0.4,
    td_steps_per_adapt_step=2,
    discounted_score=True,
)
"""Another value of every setting that an evaluation may change, but the tasks, files and the device."""
METRICS_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture(params=ALGORITHMS)
def name(request):
    return request.param


@pytest.fixture
def make(name):
    """Makes the algorithm with the tiny settings, and changes to them."""
    kind = ALGORITHMS[name]
    return lambda **changes: kind(kind.Config(**{**TINY[name], **changes}))


def leaves(state):
    return pytree.tree_leaves(state)


def same(first, second):
    """Whether two states or metrics are equal to the last bit."""
    ours, theirs = leaves(first), leaves(second)
    return len(ours) == len(theirs) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(ours, theirs, strict=True)
    )


def tensors(state):
    return [leaf for leaf in leaves(state) if isinstance(leaf, torch.Tensor)]


def timeless(metrics):
    """Metrics that do not depend on the clock."""
    return {key: value for key, value in metrics.items() if not key.startswith("time/")}


def documented():
    return set(re.findall(r"^\| `([^`]+)` \|", METRICS_PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_config_is_a_frozen_dataclass_that_training_can_read(make):
    config = make().config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    kind = type(config)
    assert kind() == kind(), "every setting has a default"
    for key in ("seed", "num_iterations", "checkpoint_interval", "eval_interval", "num_eval_tasks"):
        assert isinstance(getattr(config, key), int), key
    assert config.num_adapt_steps is None or isinstance(config.num_adapt_steps, int)


@pytest.mark.thorough
def test_the_state_is_a_named_tuple_that_counts_iterations(make):
    algorithm = make()
    state = algorithm.init()
    assert isinstance(state, tuple) and state._fields[0] == "iteration"
    for iteration in range(3):
        assert state.iteration == iteration
        state, _ = algorithm.step(state)


def test_the_start_is_a_function_of_the_seed(make, name):
    torch.manual_seed(1)
    first = make(seed=3).init()
    torch.manual_seed(2)
    assert same(first, make(seed=3).init())
    assert same(first, make(seed=4).init()) == (name in NOTHING_DRAWN_AT_THE_START)


def test_a_step_is_a_function_of_the_state(make):
    """Another instance, other global generators and steps in between must not matter."""
    algorithm = make()
    start = algorithm.init()
    torch.manual_seed(1)
    first = algorithm.step(start)
    second = algorithm.step(first.state)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    algorithm.evaluate(second.state, 2, 1)
    for again in (algorithm.step(start), make().step(start)):
        assert same(again.state, first.state)
        assert timeless(again.metrics) == timeless(first.metrics)


def test_every_iteration_samples_anew(make):
    algorithm = make()
    start = algorithm.init()
    metrics = [timeless(algorithm.step(start._replace(iteration=iteration)).metrics) for iteration in range(3)]
    assert metrics[0] != metrics[1] != metrics[2] != metrics[0]


def test_a_step_moves_the_parameters_and_leaves_its_input_as_it_was(make):
    algorithm = make()
    state = algorithm.init()
    before = [leaf.clone() for leaf in tensors(state)]
    following, _ = algorithm.step(state)
    assert all(torch.equal(*pair) for pair in zip(tensors(state), before, strict=True))
    assert not same(following.meta, state.meta)


def test_states_stay_finite_and_hold_no_graph(make):
    algorithm = make()
    state = algorithm.init()
    for _ in range(3):
        state, metrics = algorithm.step(state)
        assert all(leaf.isfinite().all() for leaf in tensors(state))
        assert not any(leaf.requires_grad for leaf in tensors(state))
        assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values()), metrics


@pytest.mark.parametrize("name", [name for name, kind in ALGORITHMS.items() if hasattr(kind.Config, "horizon")])
@pytest.mark.parametrize("changes", [{}, {"update": "trpo", "policy": MemoryConfig(4, separate_value=True)}])
def test_a_diagnostic_without_a_value_is_absent(make, name, changes):
    """Every reward is 1, so that no action is better than another."""
    if changes and name != "rl2":
        return
    if "episodes_per_task" in ALGORITHMS[name].Config.__dataclass_fields__:
        changes = {"episodes_per_task": 1}  # with several, the baseline's rounding errors are normalised, too
    algorithm = make(task="gym_env", task_args={}, horizon=1, **changes)
    state = algorithm.init()
    for _ in range(2):
        state, metrics = algorithm.step(state)
        assert all(math.isfinite(value) for value in metrics.values()), metrics
        assert all(leaf.isfinite().all() for leaf in tensors(state))
    if name == "maml_trpo":
        assert metrics["gradient_norm"] == 0 and "cg_residual" not in metrics


def test_every_metric_is_explained(make):
    algorithm = make()
    _, metrics = algorithm.step(algorithm.init())
    assert set(metrics) <= documented()


def test_every_explained_metric_is_reported():
    reported = set()
    task_inference = dict(inference="task", task="navigation_2d", num_elbo_times=8)
    for name, changes in [*((name, {}) for name in ALGORITHMS), ("varibad", task_inference)]:
        kind = ALGORITHMS[name]
        algorithm = kind(kind.Config(**TINY[name] | changes))
        reported |= set(algorithm.step(algorithm.init()).metrics)
    assert documented() - reported == {"eval/score_after_k"}


def test_an_evaluation_is_a_function_of_its_arguments(make):
    algorithm = make()
    state = algorithm.init()
    before = [leaf.clone() for leaf in tensors(state)]
    curve = algorithm.evaluate(state, 4, 2)
    algorithm.step(state)
    for again in (algorithm.evaluate(state, 4, 2), make().evaluate(state, 4, 2)):
        np.testing.assert_array_equal(again.score, curve.score)
    assert all(torch.equal(*pair) for pair in zip(tensors(state), before, strict=True))


@pytest.mark.parametrize("name", WITH_INNER_LOOP)
def test_an_evaluation_can_have_learning_rates_of_its_own(make):
    """They change nothing in training, and are those that training with them would have had."""
    rates = (0.3, 0.2)
    ours, theirs, plain = make(inner_lr=0.1, eval_inner_lr=rates), make(inner_lr=rates), make(inner_lr=0.1)
    state = ours.init()
    np.testing.assert_array_equal(ours.evaluate(state, 4, 3).score, theirs.evaluate(theirs.init(), 4, 3).score)
    assert not np.array_equal(ours.evaluate(state, 4, 3).score, plain.evaluate(plain.init(), 4, 3).score)
    assert same(ours.step(state).state, plain.step(plain.init()).state)
    with pytest.raises(ValueError, match=r"eval_inner_lr=\(0.3, 0.0\): need a rate above 0"):
        make(eval_inner_lr=(0.3, 0.0))


@pytest.mark.parametrize("name", WITH_INNER_LOOP)
def test_learned_rates_are_not_replaced_in_an_evaluation(make):
    try:
        make(learn_inner_lr="scalar")
    except ValueError:
        return  # an algorithm without learned rates
    with pytest.raises(ValueError, match=r"eval_inner_lr=0\.3: need None with learn_inner_lr='scalar'"):
        make(learn_inner_lr="scalar", eval_inner_lr=0.3)


def test_curves_have_a_row_for_each_step_and_a_column_for_each_task(make):
    algorithm = make()
    state = algorithm.init()
    more = algorithm.evaluate(state, 4, 3)
    assert more.score.shape == (4, 4)
    assert np.isfinite(more.score).all()
    assert len(more.tasks[0]) == 4
    np.testing.assert_array_equal(algorithm.evaluate(state, 4, 1).score, more.score[:2])
    assert algorithm.evaluate(state, 4, 0).score.shape == (1, 4)
    with pytest.raises(ValueError, match="num_adapt_steps=-1: need at least 0 steps"):
        algorithm.evaluate(state, 4, -1)


def test_each_split_has_tasks_and_episodes_of_its_own(make):
    """The curve names its split; without a split it is the test split, with the numbers that it has always had."""
    algorithm = make()
    state, _ = algorithm.step(algorithm.init())
    curves = {split: algorithm.evaluate(state, 4, 1, split) for split in get_args(SplitName)}
    assert {split: curve.evaluated.split for split, curve in curves.items()} == {split: split for split in curves}
    np.testing.assert_array_equal(curves["test"].score, algorithm.evaluate(state, 4, 1).score)
    assert [curve.evaluated.held_out for curve in curves.values()] == [True, True, False]
    starts = [np.concatenate([np.ravel(field) for field in curve.tasks]) for curve in curves.values()]
    assert not any(np.array_equal(starts[i], starts[j]) for i in range(3) for j in range(i))


@pytest.mark.parametrize("name", ["maml_trpo", "rl2", "lookahead_dqn"])
def test_where_the_tasks_are_the_same_the_episodes_are_others(make):
    algorithm = make(task="gym_env", task_args={}, horizon=60)
    state = algorithm.init()
    test, validation = (algorithm.evaluate(state, 3, 0, split) for split in ("test", "validation"))
    assert_equal = np.testing.assert_array_equal
    assert_equal(test.tasks[0], validation.tasks[0])
    assert not np.array_equal(test.score, validation.score)
    assert (test.evaluated.held_out, validation.evaluated.held_out) == (False, False)


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(make, name, tmp_path):
    algorithm = make()
    state, _ = algorithm.step(algorithm.init())
    expected, metrics = algorithm.step(state)
    Checkpoints(tmp_path, name, {}).save(state)
    restored = load(tmp_path / "latest").restore(make().init())
    assert same(restored, state)
    again = make().step(restored)
    assert same(again.state, expected)
    assert timeless(again.metrics) == timeless(metrics)


def test_settings_that_may_change_later_exist_and_none_about_evaluations_is_forgotten(name):
    kind = ALGORITHMS[name].Config
    fields = set(kind.__dataclass_fields__)
    assert kind.evaluation_settings <= fields and kind.resume_settings <= fields
    assert {key for key in fields if ABOUT_EVALUATIONS.match(key)} <= kind.evaluation_settings


@pytest.mark.thorough
def test_an_evaluation_accepts_every_setting_that_it_may_change(make, name, tmp_path):
    algorithm = make()
    state, _ = algorithm.step(algorithm.init())
    kind = type(algorithm.config)
    Checkpoints(tmp_path, name, to_mapping(algorithm.config)).save(state)
    trained, settings = to_mapping(algorithm.config), Settings(kind, (), {})
    for key in kind.evaluation_settings:
        value = OTHERWISE_EVALUATED.get(key, trained[key])
        assert value != trained[key] or key in ("task", "task_args", "device"), key
        start = find_start("evaluate", name, settings, {"checkpoint": str(tmp_path / "latest"), key: value})
        other = ALGORITHMS[name](from_mapping(kind, {field: start.config[field] for field in trained}))
        assert np.isfinite(other.evaluate(start.checkpoint.restore(other.init()), 2, 1).score).all()
    with pytest.raises(ConfigError, match=r"meta_batch_size=11: .* was trained with .*, and evaluate keeps to it"):
        find_start("evaluate", name, settings, {"checkpoint": str(tmp_path / "latest"), "meta_batch_size": 11})


def test_the_numbers_do_not_depend_on_the_threads(make):
    if not hasattr(make().config, "num_threads"):
        return
    one, three = (make(num_threads=count) for count in (1, 3))
    state = one.init()
    ours, theirs = one.step(state), three.step(state)
    assert same(ours.state, theirs.state)
    assert timeless(ours.metrics) == timeless(theirs.metrics)


@pytest.mark.thorough
@pytest.mark.parametrize("name", WITH_INNER_LOOP)
@pytest.mark.parametrize("inner_loop", ["func", "higher", "learn2learn"])
def test_the_inner_loops_are_interchangeable(make, name, inner_loop):
    steps = [
        make(inner_loop=backend, dtype="float64", **FEW_PRODUCTS.get(name, {})) for backend in ("func", inner_loop)
    ]
    ours, theirs = (algorithm.step(algorithm.init()) for algorithm in steps)
    for first, second in zip(tensors(ours.state), tensors(theirs.state), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(meta_batch_size=0), "meta_batch_size=0: need at least 1"),
        (dict(task="navigation"), "task='navigation': need one of "),
        (dict(task_args={"colour": 1}), "task_args.colour=1: no such key"),
        (dict(seed=-1), "seed=-1: need at least 0"),
    ],
)
def test_impossible_settings_are_refused(make, change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


@pytest.mark.parametrize("name", WITH_INNER_LOOP)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(inner_lr=-0.1), "inner_lr=-0.1: need a rate above 0"),
        (dict(inner_loop="fun"), "inner_loop='fun': need one of .*func.*, .*higher.*, .*learn2learn"),
    ],
)
def test_impossible_inner_loops_are_refused(make, change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)
