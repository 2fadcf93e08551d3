"""The cases of the golden records: small settings for every algorithm, and a short rollout for every task.

Settings are plain values, as a command line gives them. A setting is named here if the case would be another one
without it; what is not named has its default, so that a changed default shows up as a changed record.
"""

from __future__ import annotations

from typing import Any

Settings = dict[str, Any]

SHARED: Settings = {"seed": 3, "num_iterations": 3, "dtype": "float64"}

# Agents that adapt a policy by gradient steps.
AGENT = SHARED | {
    "task": "navigation_2d",
    "meta_batch_size": 3,
    "episodes_per_task": 3,
    "horizon": 8,
    "num_inner_steps": 1,
    "inner_lr": 0.1,
    "policy": {"hidden_sizes": [6]},
    "num_eval_tasks": 3,
    "eval_episodes": 3,
    "num_threads": 1,
}
TWO_STEPS: Settings = {"num_inner_steps": 2, "inner_lr": [0.2, 0.1], "eval_inner_lr": [0.3, 0.2], "gae_lambda": 0.9}
META_SGD: Settings = {"num_inner_steps": 2, "learn_inner_lr": "per_parameter"}
# Short, before contacts with the ground magnify rounding errors, and enough episodes for the baseline's 38 features.
CHEETAH: Settings = {
    "task": "cheetah_vel",
    "horizon": 4,
    "meta_batch_size": 2,
    "episodes_per_task": 16,
    "eval_episodes": 16,
}
GRID: Settings = {"task": "grid_goals", "task_args": {"size": 3, "test_fraction": 0.5}, "horizon": 12}

# Ten conjugate-gradient iterations on problems as small as these turn the last bit into the sixth digit.
TRPO = AGENT | {"cg_iterations": 4}
PPO = AGENT | {"num_inner_steps": 2, "num_epochs": 2, "meta_lr": 0.01}

REGRESSION = SHARED | {
    "updates_per_iteration": 3,
    "meta_batch_size": 4,
    "shots": 4,
    "query_points": 6,
    "hidden_sizes": [6],
    "inner_lr": 0.05,
    "num_inner_steps": 2,
    "eval_query_points": 5,
}

RL2 = SHARED | {
    "meta_batch_size": 6,
    "trials_per_task": 2,
    "episodes_per_trial": 3,
    "policy": {"hidden_size": 6},
    "num_epochs": 2,
    "num_minibatches": 2,
    "num_eval_tasks": 3,
    "eval_trials": 2,
    "num_threads": 1,
}
NAVIGATION: Settings = {"task": "navigation_2d", "horizon": 8, "discount": 0.99, "gae_lambda": 0.95}
TRANSFORMER: Settings = {"hidden_size": 8, "memory": "transformer", "num_layers": 2, "num_attention_heads": 2}
VARIBAD = RL2 | {
    "policy": {"hidden_size": 6, "head": "state", "head_hidden_sizes": [5], "belief_size": 2},
    "decoder": {"hidden_sizes": [5, 4]},
    "num_elbo_times": 2,
    "num_inference_minibatches": 2,
}
TASK_INFERENCE = {key: value for key, value in VARIBAD.items() if key != "num_elbo_times"} | {"inference": "task"}
DISTILLATION = SHARED | {
    "episodes_per_trial": 3,
    "num_histories": 10,
    "meta_batch_size": 4,
    "updates_per_iteration": 2,
    "policy": TRANSFORMER | {"num_layers": 1, "head": "state", "head_hidden_sizes": [5]},
    "num_eval_tasks": 3,
    "eval_trials": 2,
    "num_threads": 1,
}
RL2_TRPO: Settings = {"update": "trpo", "policy": {"hidden_size": 6, "separate_value": True}, "cg_iterations": 4}

GAMES = SHARED | {"meta_batch_size": 3, "num_cycles": 3, "lookahead_k": 4, "lookahead_alpha": 0.5}

TD = SHARED | {
    "discount": 0.95,
    "batch_size": 6,
    "network": {"hidden_sizes": [6]},
    "num_eval_tasks": 3,
    "eval_episodes": 3,
    "td_steps_per_adapt_step": 30,
    "adapt_transitions": 40,
}
DQN = TD | {
    "task": "gym_env",
    "meta_batch_size": 1,
    "rows_per_task": 2,
    "horizon": 40,
    "inner_optimizer": "adam",
    "inner_lr": 0.03,
    "target": "hard",
    "target_interval": 5,
    "learning_starts": 10,
    "train_freq": 8,
    "gradient_steps": 12,
    "phases_per_iteration": 2,
    "replay": {"buffer_size": 60},
}
ACROSS_TASKS = TD | {
    "task": "cartpole_params",
    "meta_batch_size": 3,
    "rows_per_task": 2,
    "horizon": 30,
    "num_inner_steps": 4,
    "target_interval": 2,
}
REPTILE_DQN = ACROSS_TASKS | {"inner_optimizer": "adam", "inner_lr": 0.03, "target": "hard"}
MAML_DQN = ACROSS_TASKS | {
    "inner_optimizer": "sgd",
    "inner_lr": 0.1,
    "target": "polyak",
    "polyak": 0.05,
    "target_steps": 2,
    "meta_lr": 0.01,
    "td_steps_per_adapt_step": 6,
}
LEAST_TRIED = GRID | {"adapt_actions": "least_tried", "adapt_epsilon": 0.7}

# Two of the three backends treat tasks one after the other.
TRPO_SMALL = TRPO | {"meta_batch_size": 2}
PPO_SMALL = PPO | {"meta_batch_size": 2, "num_epochs": 1}

BACKENDS = ("func", "higher", "learn2learn")
WITH_ADAM = ("func", "higher")


def by_backend(name: str, settings: Settings, backends: tuple[str, ...] = BACKENDS) -> dict[str, Settings]:
    """The same settings with each backend of the inner loop."""
    return {f"{name}_{backend}": settings | {"inner_loop": backend} for backend in backends}


ALGORITHM_CASES: dict[str, dict[str, Settings]] = {
    "maml_trpo": {
        **by_backend("two_steps", TRPO_SMALL | TWO_STEPS),
        **by_backend(
            "adam", TRPO_SMALL | {"num_inner_steps": 2, "inner_optimizer": "adam", "inner_lr": 0.02}, WITH_ADAM
        ),
        **by_backend("meta_sgd", TRPO_SMALL | META_SGD),
        **by_backend("first_order", TRPO_SMALL | {"num_inner_steps": 2, "first_order": True}),
        "adamw": TRPO | {"inner_optimizer": "adamw", "inner_lr": 0.02},
        "scalar_rate": TRPO | {"num_inner_steps": 2, "learn_inner_lr": "scalar"},
        "rate_per_step": TRPO | {"num_inner_steps": 2, "learn_inner_lr": "per_step"},
        "adapt_only": TRPO | {"adapt_only": ["log_std", "mean.2.*"]},
        "lookahead": TRPO | {"num_inner_steps": 3, "lookahead_k": 2, "learn_lookahead_alpha": True},
        "kronecker": TRPO_SMALL | {"inner_loop": "learn2learn", "transform": "kronecker"},
        "meta_curvature": TRPO_SMALL | {"inner_loop": "learn2learn", "transform": "meta_curvature"},
        "raw_advantages": TRPO | {"normalize_advantages": False, "policy": {"hidden_sizes": [6], "activation": "relu"}},
        "ten_products": AGENT | {"cg_iterations": 10, "cg_damping": 0.1},
        "grid_goals": TRPO | GRID,
        "tabular_mdp": TRPO | {"task": "tabular_mdp"},
        "cheetah_vel": TRPO | CHEETAH,
        "cheetah_dir": TRPO
        | CHEETAH
        | {"task": "cheetah_dir", "task_args": {"observation": "com", "clip_actions": True}},
        "gym_tasks": TRPO | {"task": "gym_tasks", "meta_batch_size": 2, "episodes_per_task": 2},
    },
    "maml_ppo": {
        **by_backend("maml", PPO_SMALL | {"estimator": "maml"}),
        **by_backend("e_maml", PPO_SMALL | {"estimator": "e_maml"}),
        **by_backend("dice", PPO_SMALL | {"estimator": "dice"}),
        **by_backend("lvc", PPO_SMALL | {"estimator": "lvc"}),
        "promp": PPO
        | {"estimator": "lvc", "kl_coef": 5e-4, "adaptive_kl": True, "target_kl": 0.01, "num_minibatches": 2},
        "adam": PPO_SMALL | {"inner_optimizer": "adam", "inner_lr": 0.02, "inner_loop": "higher"},
        "meta_sgd": PPO | META_SGD | {"max_grad_norm": 0.1},
        "first_order": PPO | {"first_order": True, "estimator": "lvc"},
        "raw_advantages": PPO | {"estimator": "e_maml", "normalize_advantages": False},
        "dice_grid_goals": PPO | GRID | {"estimator": "dice"},
        "float32": PPO | {"estimator": "lvc", "dtype": "float32"},
    },
    "fomaml": {
        **by_backend("adam", AGENT | {"num_inner_steps": 2, "meta_optimizer": "adam", "meta_lr": 0.01}),
        "sgd": AGENT | TWO_STEPS | {"meta_optimizer": "sgd", "meta_lr": 0.1, "max_grad_norm": 0.5},
    },
    "reptile": {
        **by_backend("annealed", AGENT | {"num_inner_steps": 2, "meta_lr": 0.5, "anneal_from": 0.0}),
        "constant_rate": AGENT | {"num_inner_steps": 2, "meta_lr": 0.5, "anneal_from": 1.0},
    },
    "maml_regression": {
        **by_backend("maml", REGRESSION),
        **by_backend("meta_sgd", REGRESSION | {"learn_inner_lr": "per_parameter"}),
        **by_backend("adam", REGRESSION | {"inner_optimizer": "adam", "inner_lr": 0.02}, WITH_ADAM),
        "first_order": REGRESSION | {"first_order": True},
        "anil": REGRESSION | {"adapt_only": ["head.*"], "activation": "tanh"},
        "pretrained": REGRESSION | {"num_inner_steps": 0},
        "other_rates_at_evaluation": REGRESSION | {"inner_lr": [0.05, 0.02], "eval_inner_lr": [0.03, 0.01]},
        "constant_rate": REGRESSION | {"anneal_from": 1.0},
    },
    "reptile_regression": {
        **by_backend("annealed", REGRESSION | {"meta_lr": 0.5, "anneal_from": 0.0}),
        "adam": REGRESSION | {"inner_optimizer": "adam", "inner_lr": 0.02, "meta_lr": 0.5},
    },
    "rl2": {
        "ppo_bandit": RL2 | {"task": "bandit", "final_meta_batch_size": 8},
        "ppo_tabular": RL2
        | {
            "task": "tabular_mdp",
            "policy": {"hidden_size": 6, "outer_input": True, "per_state_heads": True},
            "learn_from": "regret",
            "gae_lambda": 0.6,
            "entropy_coef": 0.05,
            "entropy_until": 0.5,
        },
        "ppo_tabular_reward": RL2 | {"task": "tabular_mdp", "policy": {"hidden_size": 6, "outer_input": True}},
        "ppo_navigation": RL2 | NAVIGATION,
        "ppo_cheetah_vel": RL2
        | {"task": "cheetah_vel", "horizon": 6, "meta_batch_size": 2, "episodes_per_trial": 2, "discount": 0.99},
        "truncated_gradients": RL2
        | {
            "task": "cartpole_params",
            "horizon": 12,
            "chunk_length": 7,
            "policy": {"hidden_size": 6, "layer_norm": True, "learn_start": True},
        },
        "trpo_bandit": RL2 | RL2_TRPO | {"task": "bandit"},
        "trpo_tabular": RL2 | RL2_TRPO | {"task": "tabular_mdp", "learn_from": "regret"},
        "trpo_navigation": RL2 | RL2_TRPO | {"task": "navigation_2d", "horizon": 8, "discount": 0.99},
        "float32": RL2 | {"task": "bandit", "dtype": "float32"},
        **{
            f"head_{head}": RL2 | NAVIGATION | {"policy": {"hidden_size": 6, "head": head, "head_hidden_sizes": [5, 4]}}
            for head in ("state", "film", "hyper")
        },
        "memory_transformer": RL2 | {"task": "tabular_mdp", "policy": TRANSFORMER | {"outer_input": True}},
        "memory_transformer_learned": RL2
        | NAVIGATION
        | {"policy": TRANSFORMER | {"positions": "learned", "context_length": 30, "head": "state"}},
        "memory_transformer_trpo": RL2
        | RL2_TRPO
        | {"task": "bandit", "policy": TRANSFORMER | {"separate_value": True, "head": "hyper"}},
        "memory_set": RL2
        | NAVIGATION
        | {"policy": {"hidden_size": 6, "memory": "set", "num_layers": 2, "head": "hyper"}},
        "memory_set_trpo": RL2
        | RL2_TRPO
        | {"task": "bandit", "policy": {"hidden_size": 6, "memory": "set", "separate_value": True}},
        "head_hyper_kaiming": RL2
        | NAVIGATION
        | {
            "policy": {
                "hidden_size": 6,
                "head": "hyper",
                "head_hidden_sizes": [5],
                "hyper_init": "kaiming",
                "hyper_size": 3,
                "belief_size": 2,
                "belief_gradient": True,
            }
        },
    },
    "distillation": {
        "q_learning": DISTILLATION
        | {
            "task": "dark_room",
            "task_args": {"size": 3},
            "horizon": 4,
            "source": {"num_episodes": 6, "initial_value": 1.0, "epsilon": 0.2},
            "keep_every": 2,
        },
        "ucb1": DISTILLATION | {"task": "bandit", "source": {"kind": "ucb1", "num_episodes": 3}},
    },
    "varibad": {
        "bandit": VARIBAD | {"task": "bandit", "decoder": {"hidden_sizes": [5], "reward": "bernoulli"}, "kl_coef": 1.0},
        "tabular": VARIBAD
        | {"task": "tabular_mdp", "decoder": {"hidden_sizes": [5], "reward_per_state": True}, "num_elbo_times": 0},
        "navigation": VARIBAD | {"task": "navigation_2d", "horizon": 8, "num_inference_epochs": 2},
        "belief_gradient": VARIBAD
        | {"task": "cartpole_params", "horizon": 12, "policy": VARIBAD["policy"] | {"belief_gradient": True}},
        "task_inference": TASK_INFERENCE | {"task": "navigation_2d", "horizon": 8},
        "task_inference_classes": TASK_INFERENCE | GRID | {"task_args": {"size": 3, "test_fraction": 0.4}},
    },
    "lookahead_games": {
        "rock_paper_scissors": GAMES | {"task": "rock_paper_scissors", "player_lr": 1.0, "meta_lr": 0.0},
        "plain_descent": GAMES
        | {"task": "matching_pennies", "player_lr": 0.3, "meta_lr": 0.0, "lookahead_k": 1, "lookahead_alpha": 1.0},
        "nested": GAMES | {"task": "rock_paper_scissors", "player_lr": 0.5, "meta_lr": 0.0, "outer_k": 6},
        "learned": GAMES | {"task": "matching_pennies", "player_lr": 0.3, "meta_lr": 0.02},
        "learned_bilinear": GAMES
        | {"task": "bilinear", "task_args": {"singular_values": [1.0, 0.5]}, "player_lr": 0.3, "meta_lr": 0.02},
        **{
            f"momentum_{kept}": GAMES
            | {"task": "bilinear", "player_lr": 0.2, "momentum": 0.5, "lookahead_inner_state": kept, "meta_lr": 0.02}
            for kept in ("maintain", "reset", "pullback")
        },
    },
    "lookahead_dqn": {
        "plain": DQN,
        "polyak": DQN | {"target": "polyak", "polyak": 0.1, "td_loss": "mse", "max_grad_norm": 0.5},
        "rainbow": DQN
        | {
            "double": True,
            "n_step": 3,
            "network": {"hidden_sizes": [6], "dueling": True},
            "replay": {"buffer_size": 60, "priority_exponent": 0.6, "importance_exponent": 0.4},
        },
        "fast_slow": DQN | {"lookahead_k": 3, "lookahead_alpha": 0.5, "lookahead_inner_state": "pullback"},
        "slow_target": DQN | {"target": "slow", "lookahead_k": 4, "lookahead_alpha": 0.5},
        "exponential_exploration": DQN
        | {"exploration": {"schedule": "exponential", "start": 1.0, "end": 0.05, "fraction": 0.8}},
        "several_tasks": DQN | {"task": "cartpole_params", "meta_batch_size": 2, "inner_optimizer": "sgd"},
        "discounted_score": DQN | GRID | {"meta_batch_size": 2, "discounted_score": True, "inner_optimizer": "adamw"},
        "float32": DQN | {"dtype": "float32"},
    },
    "reptile_dqn": {
        "cartpole": REPTILE_DQN | {"meta_lr": 1.0, "anneal_from": 0.0, "adapt_epsilon": 0.5},
        "grid_goals": REPTILE_DQN
        | LEAST_TRIED
        | {"meta_lr": 0.8, "anneal_from": 1.0, "network": {"hidden_sizes": [6], "dueling": True}},
        "lookahead": REPTILE_DQN | {"meta_lr": 0.8, "lookahead_k": 2, "lookahead_alpha": 0.5, "target": "slow"},
    },
    "maml_dqn": {
        **by_backend("cartpole", MAML_DQN | {"adapt_epsilon": 0.5, "anneal_from": 0.0}),
        "grid_goals": MAML_DQN | LEAST_TRIED | {"learn_inner_lr": "scalar", "max_grad_norm": 0.05},
        "meta_sgd": MAML_DQN | {"learn_inner_lr": "per_parameter", "td_loss": "mse"},
        "adam": MAML_DQN | {"inner_optimizer": "adam", "inner_lr": 0.02, "target": "hard", "target_steps": 0},
        "lookahead": MAML_DQN | {"lookahead_k": 2, "learn_lookahead_alpha": True},
        "first_order": MAML_DQN | {"first_order": True},
    },
}
"""By algorithm and name. Every algorithm needs a case, every estimator of `maml_ppo` one with each backend."""

SHORT: Settings = {"horizon": 10}

TASK_CASES: dict[str, dict[str, Settings]] = {
    "ant_dir": {"default": SHORT, "plane": SHORT | {"directions": "plane"}},
    "ant_vel": {"default": SHORT, "promp": SHORT | {"reward": "promp", "observe_forces": False}},
    "ant_goal": {"default": SHORT, "disc": SHORT | {"goals": "disc", "terminate": False, "clip_actions": True}},
    "bandit": {"default": {}, "gaussian": {"reward": "gaussian", "num_arms": 3}},
    "cartpole_params": {
        "default": {"horizon": 40},
        "every_range": {"horizon": 40, "cart_mass_range": [0.5, 2.0], "force_range": [5.0, 15.0]},
    },
    "cheetah_dir": {"default": SHORT, "com": SHORT | {"observation": "com", "clip_actions": True}},
    "cheetah_vel": {"default": SHORT, "torso": SHORT | {"observation": "torso"}},
    "dark_room": {"default": {}, "held_out": SHORT | {"size": 5, "test_fraction": 0.25, "observation": "coordinates"}},
    "grid_goals": {"default": SHORT, "large": {"horizon": 30, "size": 3}},
    "gridnavi": {"default": {}, "coordinates": SHORT | {"size": 4, "observation": "coordinates"}},
    "gym_env": {"default": {"horizon": 40}, "pendulum": {"horizon": 20, "env_id": "Pendulum-v1"}},
    "gym_tasks": {
        "default": SHORT,
        "cartpole": {
            "horizon": 20,
            "env_id": "CartPole-v1",
            "randomize": {"length": [0.2, 1.0]},
            "choose": {"gravity": [5.0, 10.0, 15.0]},
            "scale": {"masspole": [0.5, 2.0]},
            "derived": {"polemass_length": "masspole * length"},
        },
    },
    "humanoid_dir": {"default": SHORT, "positions": SHORT | {"observation": "positions", "directions": "line"}},
    "lunarlander_params": {"default": {"horizon": 90}},
    "navigation_2d": {"default": SHORT, "wide_goals": {"horizon": 40, "done_radius": 0.3}},
    "point_semicircle": {"default": SHORT, "wide": {"horizon": 30, "goal_radius": 0.6}},
    "reacher_goal": {"default": SHORT, "gymnasium": SHORT | {"observation": "gymnasium", "clip_actions": True}},
    "tabular_mdp": {"default": {}},
}
"""By task and name. A task that is not named here has one case, `SHORT`."""

REGRESSION_TASK_CASES: dict[str, dict[str, Settings]] = {
    "sinusoid": {"default": {}, "narrow": {"amplitude_range": [1.0, 2.0], "input_range": [0.0, 1.0]}},
}
"""By regression task and name. One that is not named here has one case with its defaults."""
