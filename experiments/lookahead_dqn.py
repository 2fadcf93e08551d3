"""DQN with Lookahead around its TD steps, over tasks, or inside a differentiable inner loop.

    python experiments/lookahead_dqn.py print_config with design=reptile
    python experiments/lookahead_dqn.py with cartpole seed=3
    python experiments/lookahead_dqn.py with cartpole slow_target lookahead_alpha=0.5 seed=3
    python experiments/lookahead_dqn.py with grid_goals_reptile seed=3
    python experiments/lookahead_dqn.py evaluate with run=3 num_adapt_steps=10
    python experiments/lookahead_dqn.py resume with run=3

`design` chooses the settings: `lookahead` (the default), `reptile` and `maml` have different ones.

Named configs: cartpole, lunarlander (DQN with the settings of rl-baselines3-zoo); after one of these half_rate (Adam at
half the rate), fast_slow (design A), slow_target (design A2), rainbow (Double, Dueling, 3 steps, priorities);
grid_goals_reptile, cartpole_params (design B), grid_goals_maml (design C); fast (seconds, any design).
"""

from __future__ import annotations

from typing import Any

from experiments.render import prepare_drawing
from experiments.report import report
from research.algorithms import ALGORITHMS, Algorithm
from research.tracking.commands import add_commands
from research.tracking.experiment import make_experiment
from research.tracking.settings import Choice

DESIGNS = {"lookahead": "lookahead_dqn", "reptile": "reptile_dqn", "maml": "maml_dqn"}

_GRID: dict[str, Any] = {
    "task": "grid_goals",
    "horizon": 20,
    "discount": 0.9,
    "discounted_score": True,
    "network": {"hidden_sizes": [64, 64]},
    "meta_batch_size": 10,
    "rows_per_task": 10,
    "adapt_actions": "least_tried",
    "batch_size": 100,
    "num_eval_tasks": 8,
    "eval_episodes": 2000,
    "eval_interval": 20,
}

NAMED_CONFIGS: dict[str, dict[str, Any]] = {
    "cartpole": {"eval_interval": 2},  # the defaults: rl-baselines3-zoo, hyperparams/dqn.yml, CartPole-v1
    "lunarlander": {  # the same file, LunarLander-v2
        "task_args": {"env_id": "LunarLander-v3"},
        "horizon": 1000,
        "num_iterations": 100,
        "inner_lr": 6.3e-4,
        "batch_size": 128,
        "replay": {"buffer_size": 50_000},
        "learning_starts": 128,
        "train_freq": 4,
        "gradient_steps": 4,
        "phases_per_iteration": 250,
        "target_interval": 250,
        "exploration": {"fraction": 0.12, "end": 0.1},
        "eval_interval": 5,
    },
    "half_rate": {"inner_lr": 1.15e-3},
    "fast_slow": {"lookahead_k": 5, "lookahead_alpha": 0.5},
    "slow_target": {"lookahead_k": 64, "lookahead_alpha": 0.5, "target": "slow"},
    "rainbow": {
        "double": True,
        "n_step": 3,
        "network": {"dueling": True},
        "replay": {"priority_exponent": 0.6},
    },
    "grid_goals_reptile": _GRID
    | {
        "design": "reptile",
        "num_iterations": 60,
        "num_inner_steps": 100,
        "inner_lr": 1e-3,
        "max_grad_norm": 0.0,
        "target_interval": 2,
        "anneal_from": 0.5,
        "num_adapt_steps": 3,
        "td_steps_per_adapt_step": 100,
    },
    "grid_goals_maml": _GRID
    | {
        "design": "maml",
        "num_iterations": 240,
        "num_inner_steps": 6,
        "inner_optimizer": "sgd",
        "inner_lr": 0.5,
        "learn_inner_lr": "scalar",
        "network": {"hidden_sizes": [64, 64], "activation": "tanh"},  # with relu, 6 steps at this rate can diverge
        "target": "polyak",
        "polyak": 0.05,
        "target_steps": 6,
        "meta_lr": 1e-3,
        "max_grad_norm": 0.05,
        "anneal_from": 0.4,
        "num_adapt_steps": 5,
        "td_steps_per_adapt_step": 6,
        "eval_interval": 60,
    },
    "cartpole_params": {
        "design": "reptile",
        "task": "cartpole_params",
        "horizon": 200,
        "num_iterations": 200,
        "meta_batch_size": 10,
        "rows_per_task": 10,
        "adapt_transitions": 1000,
        "adapt_epsilon": 0.3,
        "num_inner_steps": 100,
        "inner_lr": 1e-3,
        "network": {"hidden_sizes": [64, 64]},
        "target_interval": 20,
        "num_eval_tasks": 20,
        "num_adapt_steps": 3,
        "td_steps_per_adapt_step": 100,
        "eval_interval": 20,
    },
    "fast": {
        "num_iterations": 3,
        "horizon": 15,
        "batch_size": 4,
        "adapt_transitions": 40,
        "network": {"hidden_sizes": [8]},
        "num_eval_tasks": 3,
        "num_adapt_steps": 1,
        "eval_episodes": 3,
        "eval_interval": 2,
        "design": {
            "lookahead": {"train_freq": 8, "phases_per_iteration": 2, "learning_starts": 16, "gradient_steps": 2},
            "reptile": {"num_inner_steps": 2},
            "maml": {"num_inner_steps": 2},
        },
    },
}


def choose(config: Any) -> Algorithm:
    """Returns the algorithm of a design from its settings."""
    return ALGORITHMS[DESIGNS[config.design]](config)


experiment = make_experiment(
    "lookahead_dqn",
    Choice("design", DESIGNS),
    script=__file__,
    description=__doc__,
    named_configs=NAMED_CONFIGS,
)
add_commands(
    experiment,
    choose,
    columns={"return": "episode_return", "TD error": "td_error", "ε": "epsilon", "steps/s": "time/steps_per_second"},
    report=report,
    prepare_drawing=prepare_drawing,
)

if __name__ == "__main__":
    experiment.run_commandline()
