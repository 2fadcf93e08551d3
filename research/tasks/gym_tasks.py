"""Any registered Gymnasium environment as a distribution over tasks: name what differs, and between which values.

    maml_trpo.py with task=gym_tasks task_args.env_id=Pendulum-v1 'task_args.randomize.g=[5.0,15.0]' horizon=200

An attribute is set once, after the environment is made and before its first reset. What the environment computed from
it while it was made stays as it was: CartPole-v1 multiplies mass and length of its pole at the start, so `length` alone
changes half of the equations. `derived` computes such attributes anew. An argument of `gymnasium.make`
(`randomize_kwargs`) has no such trap, and is to be preferred where there is one.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from research.sampling.gym import (
    DrawnGymEnvs,
    Env,
    GymEnvs,
    Row,
    make_env,
    nearest_first,
    parameters,
    refuse_unknown_kwargs,
)
from research.tasks import attributes
from research.tasks.attributes import NoSuchAttributeError
from research.tasks.base import Split
from research.tasks.quantities import Quantity, Space, entries, from_choices, from_range
from research.validation import in_open_unit_interval, one_of, positive

_DEFAULT_ENV = "Pendulum-v1"
_DEFAULT_RANGES = {"g": [5.0, 15.0]}
_ON_ATTRIBUTES = ("randomize", "choose", "scale")
_ON_KWARGS = ("randomize_kwargs", "choose_kwargs")
_MAX_PROBES = 20


class GymTaskBatch(NamedTuple):
    """Tasks: `values [tasks, quantities]` in the order of `GymTasks.quantities`, the index for a choice."""

    values: NDArray[np.float64]


@dataclass(frozen=True)
class GymTasks:
    """The task distribution. Attributes are those of `env.unwrapped`, by path, e.g. `model.opt.gravity[2]`.

    Attributes:
        horizon: Steps of an episode, in place of the environment's own limit.
        env_id: A registered id, or `module:id`, which imports the module first.
        randomize: Attribute → [low, high], uniform. Whole numbers if both ends and the attribute are. None: nothing,
            or the gravity of Pendulum-v1 from 5 to 15 if no other setting says what to do.
        choose: Attribute → list of values, each as likely.
        scale: Attribute → [low, high], a factor for the value that it has. An array is scaled as a whole.
        randomize_kwargs: Argument of `gymnasium.make` → [low, high], as `randomize`.
        choose_kwargs: Argument → list of values.
        kwargs: Argument → the value that it has in every task.
        derived: Attribute → what it is computed from after all others are set, e.g. `masspole * length`; in this order.
        test_fraction: Share of the tasks that is held out where there are finitely many.
        vectorization: `"sync"`, or `"async"`: every row in a process of its own, made anew in every iteration.
    """

    horizon: int = 100
    env_id: str = _DEFAULT_ENV
    randomize: dict[str, Any] | None = None
    choose: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, Any] = field(default_factory=dict)
    randomize_kwargs: dict[str, Any] = field(default_factory=dict)
    choose_kwargs: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)
    derived: dict[str, Any] = field(default_factory=dict)
    test_fraction: float = 0.2
    vectorization: Literal["sync", "async"] = "sync"

    def __post_init__(self) -> None:
        positive(self, "horizon")
        one_of(self, "vectorization", ("sync", "async"))
        in_open_unit_interval(self, "test_fraction")
        _ = self._spaces  # makes the environment at the ends of all ranges, before a run has begun

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What differs from task to task."""
        return self._space.quantities

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The flattened observation, declared without bounds."""
        return self._spaces[0]

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """That of the environment."""
        return self._spaces[1]

    @property
    def split(self) -> Split:
        """See `TaskDistribution.split`."""
        if not self._space.is_finite:
            return Split(True, "held-out tasks are a fixed sequence of draws from the ranges that training draws from")
        how = f"{self._space.num_held_out} of the {self._space.size} tasks are held out, training draws from the others"
        return Split(True, how)

    def sample(self, num_tasks: int, rng: np.random.Generator) -> GymTaskBatch:
        """Tasks for training."""
        return GymTaskBatch(self._space.draw(num_tasks, rng))

    def test_tasks(self, num_tasks: int) -> GymTaskBatch:
        """The first `num_tasks` held-out tasks. Raises ValueError if so many do not exist."""
        return GymTaskBatch(self._space.held_out(num_tasks))

    def make_envs(self, tasks: GymTaskBatch, episodes: int) -> GymEnvs:
        """See `TaskDistribution.make_envs`."""
        positive(dict(episodes=episodes), "episodes")
        makers = [functools.partial(self._make, task) for task in tasks.values for _ in range(episodes)]
        return GymEnvs(makers, self.vectorization)

    def make_drawn_envs(self, tasks: GymTaskBatch, episodes: int) -> DrawnGymEnvs:
        """The same environments, made so that they can be drawn. Raises ValueError if they cannot be."""
        positive(dict(episodes=episodes), "episodes")
        drawn = dataclasses.replace(self, kwargs=self.kwargs | {"render_mode": "rgb_array"}, vectorization="sync")
        makers = [functools.partial(drawn._make, task) for task in tasks.values for _ in range(episodes)]
        return DrawnGymEnvs(makers, self.env_id)

    def describe(self, tasks: GymTaskBatch) -> dict[str, list[Any]]:
        """The values of every quantity, by the name of its setting."""
        columns = zip(self.quantities, tasks.values.T, strict=True)
        return {quantity.key: [quantity.decode(drawn) for drawn in column] for quantity, column in columns}

    @functools.cached_property
    def _space(self) -> Space:
        return Space(_quantities(self), self.test_fraction)

    @functools.cached_property
    def _spaces(self) -> tuple[gymnasium.spaces.Box, gymnasium.Space[Any]]:
        return _probe(self)

    def _make(self, task: NDArray[np.float64]) -> Env:
        """The environment of a task."""
        values = [(quantity, quantity.decode(drawn)) for quantity, drawn in zip(self.quantities, task, strict=True)]
        drawn_kwargs = {quantity.name: value for quantity, value in values if quantity.setting in _ON_KWARGS}
        env = make_env(self.env_id, self.horizon, self.kwargs | drawn_kwargs)
        for quantity, value in values:
            if quantity.setting in _ON_ATTRIBUTES:
                _set(env, quantity, value)
        for path, expression in entries("derived", self.derived):
            attributes.write(env.unwrapped, path, attributes.compute(env.unwrapped, expression))
        return env


def _set(env: Env, quantity: Quantity, value: Any) -> None:
    if quantity.setting == "scale":
        old = attributes.read(env.unwrapped, quantity.name)
        value = (np.asarray(old) if np.ndim(old) else old) * value
    attributes.write(env.unwrapped, quantity.name, value)


def _quantities(tasks: GymTasks) -> list[Quantity]:
    """What the settings name, each checked against the environment. Raises ValueError."""
    on_kwargs = _kwargs_quantities(tasks)
    settings = {name: dict(entries(name, getattr(tasks, name) or {})) for name in _ON_ATTRIBUTES}
    if tasks.randomize is None and tasks.env_id == _DEFAULT_ENV and not on_kwargs and not any(settings.values()):
        settings["randomize"] = _DEFAULT_RANGES
    env = make_env(tasks.env_id, tasks.horizon, tasks.kwargs | {q.name: q.decode(_extreme(q, 0)) for q in on_kwargs})
    found = [*on_kwargs]
    for setting, values in settings.items():
        found += [_attribute_quantity(env, setting, path, value) for path, value in values.items()]
    for path, expression in entries("derived", tasks.derived):
        _check_derived(env, path, expression)
    if not found:
        raise ValueError(f"randomize={tasks.randomize!r}: nothing differs from task to task; write "
                         f"task_args.randomize.<attribute>=[low,high] with one of {_names(env.unwrapped)}, or "
                         f"task_args.randomize_kwargs.<argument>=[low,high] with one of "
                         f"{', '.join(parameters(tasks.env_id)) or 'none'}")  # fmt: skip
    env.close()
    names = [quantity.name for quantity in found if quantity.setting in _ON_ATTRIBUTES]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name}: named by more than one of {', '.join(_ON_ATTRIBUTES)}; need one")
    return found


def _kwargs_quantities(tasks: GymTasks) -> list[Quantity]:
    known = parameters(tasks.env_id)
    found = []
    for setting in _ON_KWARGS:
        values = getattr(tasks, setting)
        refuse_unknown_kwargs(tasks.env_id, values, setting)
        for name, value in values.items():
            if name in tasks.kwargs or (setting == "choose_kwargs" and name in tasks.randomize_kwargs):
                raise ValueError(f"{setting}.{name}={value!r}: it is given twice; need one of kwargs, {_ON_KWARGS}")
            default = known[name].default if name in known else None
            is_range = setting == "randomize_kwargs"
            found.append(from_range(setting, name, value, default) if is_range else from_choices(setting, name, value))
    return found


def _attribute_quantity(env: Env, setting: str, path: str, value: Any) -> Quantity:
    old = _existing(env, f"{setting}.{path}={value!r}", path)
    if setting == "choose":
        return from_choices(setting, path, value)
    is_array = np.ndim(old) > 0 and np.issubdtype(np.asarray(old).dtype, np.number)
    if not attributes.is_number(old) and not (setting == "scale" and is_array):
        advice = f"name an entry, e.g. {path}[0], or use task_args.scale" if is_array else "or use task_args.choose"
        raise ValueError(f"{setting}.{path}={value!r}: it is {old!r}; need the name of a number; {advice}")
    quantity = from_range(setting, path, value, old)
    if setting == "scale":
        if quantity.low <= 0:
            raise ValueError(f"scale.{path}={value!r}: need factors above 0")
        quantity = from_range(setting, path, value, 1.0)
    return quantity


def _check_derived(env: Env, path: str, expression: Any) -> None:
    given = f"derived.{path}={expression!r}"
    _existing(env, given, path)
    if not isinstance(expression, str):
        raise ValueError(f"{given}: need an expression such as 'masspole * length'")
    try:
        attributes.compute(env.unwrapped, expression)
    except NoSuchAttributeError as error:
        raise _unknown(env, given, error) from None
    except (ValueError, ArithmeticError, TypeError) as error:
        raise ValueError(f"{given}: {error}") from None


def _existing(env: Env, given: str, path: str) -> Any:
    """What is at the path. Raises ValueError with the names that exist."""
    try:
        return attributes.read(env.unwrapped, path)
    except NoSuchAttributeError as error:
        raise _unknown(env, given, error) from None
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from None


def _unknown(env: Env, given: str, error: NoSuchAttributeError) -> ValueError:
    place = type(env.unwrapped).__name__ + (f".{error.where}" if error.where else "")
    return ValueError(f"{given}: {place} has no {error.name}; of numbers it has {_names(error.owner, error.name)}")


def _names(owner: Any, name: str = "") -> str:
    return nearest_first(name, attributes.numeric(owner), limit=40) or "none"


def _probe(tasks: GymTasks) -> tuple[gymnasium.spaces.Box, gymnasium.Space[Any]]:
    """The spaces, after environments at the ends of all ranges and at all choices were made and reset.

    Raises:
        ValueError: One of them cannot be made or reset, does not keep a value, or has other spaces than the first.
    """
    quantities = tasks.quantities
    count = min(max(2, *(len(quantity.choices) for quantity in quantities)), _MAX_PROBES)
    probes = [np.array([_extreme(quantity, i) for quantity in quantities]) for i in range(count)]
    rows = [Row(_made(tasks, probe)) for probe in probes]
    spaces = [(row.flat_space, row.action_space) for row in rows]
    written = [_values(row, quantities) for row in rows]
    for row, probe in zip(rows, probes, strict=True):
        try:
            row.reset(seed=0)
        except Exception as error:
            given = tasks.describe(GymTaskBatch(probe[None]))
            raise ValueError(f"env_id={tasks.env_id!r}: it cannot be reset with {given}: {error!r}") from error
    for row, own, probe, values in zip(rows, spaces, probes, written, strict=True):
        _check_kept(row, quantities, probe, values)
        if own != spaces[0]:
            raise ValueError(f"env_id={tasks.env_id!r}: with {tasks.describe(GymTaskBatch(probe[None]))} it has other "
                             "spaces than with other values; need tasks that share theirs")  # fmt: skip
    for row in rows:
        row.close()
    return spaces[0]


def _extreme(quantity: Quantity, i: int) -> float:
    """Choice i in turn, or one of the ends. Ranges of real numbers are open: their ends are never drawn."""
    if quantity.choices:
        return float(i % quantity.num_values)
    inward = 0.0 if quantity.num_values else 1e-6 * (quantity.high - quantity.low)
    return quantity.high - inward if i % 2 else quantity.low + inward


def _made(tasks: GymTasks, probe: NDArray[np.float64]) -> Env:
    try:
        return tasks._make(probe)
    except (AttributeError, TypeError, OverflowError) as error:
        given = tasks.describe(GymTaskBatch(probe[None]))
        raise ValueError(f"env_id={tasks.env_id!r}: it does not take {given}: {error}") from error


def _values(row: Row, quantities: tuple[Quantity, ...]) -> dict[str, Any]:
    named = (quantity.name for quantity in quantities if quantity.setting in _ON_ATTRIBUTES)
    return {name: copy.deepcopy(attributes.read(row.unwrapped, name)) for name in named}


def _check_kept(row: Row, quantities: tuple[Quantity, ...], probe: NDArray[np.float64], values: dict[str, Any]) -> None:
    """Raises ValueError if an attribute is not what was written: reset by the environment, or shared with others."""
    for quantity, drawn in zip(quantities, probe, strict=True):
        if quantity.setting not in _ON_ATTRIBUTES:
            continue
        written = values[quantity.name] if quantity.setting == "scale" else quantity.decode(drawn)
        now = attributes.read(row.unwrapped, quantity.name)
        same = np.allclose(now, written, rtol=1e-5) if np.asarray(now).dtype.kind in "fiu" else now == written
        if not same:
            raise ValueError(f"{quantity.key}: the environment does not keep it: {written!r} was written, {now!r} is "
                             "there after a reset; name what it is computed from, or an argument "
                             "(task_args.randomize_kwargs)")  # fmt: skip
