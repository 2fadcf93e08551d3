"""Task distributions, one domain per file: `TASKS` for reinforcement learning, `REGRESSION_TASKS` for regression."""

from typing import Any

from research.conversion import make_task
from research.tasks.ant import AntDir, AntGoal, AntVel
from research.tasks.bandit import Bandit
from research.tasks.base import RegressionDistribution, SolvedTasks, Split, TaskDistribution
from research.tasks.body_params import HopperParams, WalkerParams
from research.tasks.cartpole_params import CartPoleParams
from research.tasks.cheetah import CheetahDir, CheetahVel
from research.tasks.grid_goals import GridGoals
from research.tasks.gym_env import GymEnv
from research.tasks.gym_tasks import GymTasks, LunarLanderParams
from research.tasks.hidden_goal import DarkRoom, GridNavi
from research.tasks.humanoid import HumanoidDir
from research.tasks.navigation_2d import Navigation2D
from research.tasks.point_semicircle import PointSemicircle
from research.tasks.reacher import ReacherGoal
from research.tasks.sinusoid import Sinusoid
from research.tasks.tabular_mdp import TabularMDP

TASKS: dict[str, type[TaskDistribution]] = {
    "ant_dir": AntDir,
    "ant_goal": AntGoal,
    "ant_vel": AntVel,
    "bandit": Bandit,
    "cartpole_params": CartPoleParams,
    "cheetah_dir": CheetahDir,
    "cheetah_vel": CheetahVel,
    "dark_room": DarkRoom,
    "grid_goals": GridGoals,
    "gridnavi": GridNavi,
    "gym_env": GymEnv,
    "gym_tasks": GymTasks,
    "hopper_params": HopperParams,
    "humanoid_dir": HumanoidDir,
    "lunarlander_params": LunarLanderParams,
    "navigation_2d": Navigation2D,
    "point_semicircle": PointSemicircle,
    "reacher_goal": ReacherGoal,
    "tabular_mdp": TabularMDP,
    "walker_params": WalkerParams,
}

REGRESSION_TASKS: dict[str, type[RegressionDistribution]] = {
    "sinusoid": Sinusoid,
}


def make_tasks(name: str, **settings: Any) -> TaskDistribution:
    """Makes the task distribution registered as `name`.

    Args:
        name: A key of `TASKS`.
        settings: Values of its settings, where they differ from the defaults.

    Raises:
        ValueError: No task has that name, it has no such setting, or a setting is out of range.
    """
    return make_task(TASKS, name, settings)


def make_regression_tasks(name: str, **settings: Any) -> RegressionDistribution:
    """Makes the distribution registered as `name` in `REGRESSION_TASKS`. Arguments and errors: see `make_tasks`."""
    return make_task(REGRESSION_TASKS, name, settings)


__all__ = [
    "REGRESSION_TASKS",
    "TASKS",
    "RegressionDistribution",
    "SolvedTasks",
    "Split",
    "TaskDistribution",
    "make_regression_tasks",
    "make_tasks",
]
