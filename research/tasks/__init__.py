"""Task distributions, one domain per file: `TASKS` for reinforcement learning, `REGRESSION_TASKS` for regression."""

from typing import Any

from research.conversion import make_task
from research.registry import Registry, attribute_of
from research.tasks.base import RegressionDistribution, SolvedTasks, Split, TaskDistribution

TASKS: Registry[TaskDistribution] = Registry(
    __name__,
    {
        "ant_dir": "ant:AntDir",
        "ant_goal": "ant:AntGoal",
        "ant_vel": "ant:AntVel",
        "bandit": "bandit:Bandit",
        "cartpole_params": "cartpole_params:CartPoleParams",
        "cheetah_dir": "cheetah:CheetahDir",
        "cheetah_vel": "cheetah:CheetahVel",
        "dark_room": "hidden_goal:DarkRoom",
        "grid_goals": "grid_goals:GridGoals",
        "gridnavi": "hidden_goal:GridNavi",
        "gym_env": "gym_env:GymEnv",
        "gym_tasks": "gym_tasks:GymTasks",
        "hopper_params": "body_params:HopperParams",
        "humanoid_dir": "humanoid:HumanoidDir",
        "lunarlander_params": "gym_tasks:LunarLanderParams",
        "navigation_2d": "navigation_2d:Navigation2D",
        "point_semicircle": "point_semicircle:PointSemicircle",
        "reacher_goal": "reacher:ReacherGoal",
        "tabular_mdp": "tabular_mdp:TabularMDP",
        "walker_params": "body_params:WalkerParams",
    },
)

REGRESSION_TASKS: Registry[RegressionDistribution] = Registry(__name__, {"sinusoid": "sinusoid:Sinusoid"})


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


def __getattr__(name: str) -> Any:
    """Returns a class of the registries: `from research.tasks import GridNavi` imports it."""
    return attribute_of(__name__, name, TASKS, REGRESSION_TASKS)


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
