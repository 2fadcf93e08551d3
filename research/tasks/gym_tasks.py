"""Any registered Gymnasium environment as a distribution over tasks: name the quantities that differ, and their values.

    maml_trpo.py with task=gym_tasks task_args.env_id=Pendulum-v1 'task_args.randomize.g=[5.0,15.0]' horizon=200

An attribute is set once, after the environment is made and before its first reset. Values that the environment computed
from it in its constructor stay as they were: CartPole-v1 multiplies the mass and the length of its pole there, so a new
`length` alone changes half of the equations. `derived` computes such attributes again. Arguments of `gymnasium.make`
(`randomize_kwargs`) do not have this problem; prefer them where they exist. What a MuJoCo model derives from an edited
number is computed again, or the edit is refused (`mujoco_models.py`).
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from research.sampling.gym import Env, Row, make_env, nearest_first, parameters, refuse_unknown_kwargs
from research.tasks import attributes
from research.tasks.attributes import NoSuchAttributeError
from research.tasks.base import DRAWN, Split
from research.tasks.gym_env import GymDistribution, Spaces
from research.tasks.mujoco_models import completed, refuse_other_edits
from research.tasks.quantities import Quantity, Space, entries, from_choices, from_range
from research.validation import in_open_unit_interval

_DEFAULT_ENV = "Pendulum-v1"
_DEFAULT_RANGES = {"g": [5.0, 15.0]}
_ON_ATTRIBUTES = ("randomize", "choose", "scale")
_ON_KWARGS = ("randomize_kwargs", "choose_kwargs")
_MAX_PROBES = 20


class GymTaskBatch(NamedTuple):
    """Tasks: `values [tasks, quantities]` in the order of `GymTasks.quantities`; for a choice its index."""

    values: NDArray[np.float64]


@dataclass(frozen=True)
class GymTasks(GymDistribution):
    """The task distribution. Attributes are those of `env.unwrapped`, by path, e.g. `model.opt.gravity[2]`.

    Attributes:
        randomize: Attribute → [low, high], uniform; integers if both ends and the attribute are. None: nothing, or
            the gravity of Pendulum-v1 from 5 to 15 if no other setting names a quantity.
        choose: Attribute → list of values, with equal probability.
        scale: Attribute → [low, high], the range of a factor of its value. An array has one factor.
        randomize_kwargs: Argument of `gymnasium.make` → [low, high], as `randomize`.
        choose_kwargs: Argument of `gymnasium.make` → list of values.
        derived: Attribute → expression that computes it after all others are set, e.g. `masspole * length`; computed
            in the given order.
        test_fraction: Fraction of the tasks that is held out where there are finitely many, in (0, 1).
    """

    randomize: dict[str, Any] | None = None
    choose: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, Any] = field(default_factory=dict)
    randomize_kwargs: dict[str, Any] = field(default_factory=dict)
    choose_kwargs: dict[str, Any] = field(default_factory=dict)
    derived: dict[str, Any] = field(default_factory=dict)
    test_fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        in_open_unit_interval(self, "test_fraction")
        _ = self.spaces  # makes environments at the ends of all ranges, so that wrong settings are refused here

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The quantities that differ from task to task."""
        return self._space.quantities

    @property
    def split(self) -> Split:
        if not self._space.is_finite:
            return DRAWN
        held_out, size = self._space.num_held_out, self._space.size
        how = f"{held_out} of the {size} tasks are held out, training and validation have the others"
        return Split(True, how, validation_disjoint=False)

    def sample(self, num_tasks: int, rng: np.random.Generator) -> GymTaskBatch:
        return GymTaskBatch(self._space.draw(num_tasks, rng))

    def test_tasks(self, num_tasks: int) -> GymTaskBatch:
        return GymTaskBatch(self._space.held_out(num_tasks))

    def validation_tasks(self, num_tasks: int) -> GymTaskBatch:
        return GymTaskBatch(self._space.validation(num_tasks))

    def describe(self, tasks: GymTaskBatch) -> dict[str, list[Any]]:
        """Returns the values of every quantity, by the name of its setting."""
        columns = zip(self.quantities, tasks.values.T, strict=True)
        return {quantity.key: [quantity.decode(drawn) for drawn in column] for quantity, column in columns}

    @functools.cached_property
    def _space(self) -> Space:
        return Space(_quantities(self), self.test_fraction)

    @functools.cached_property
    def spaces(self) -> Spaces:
        return _probe(self)

    def make_task_env(self, task: NDArray[np.float64]) -> Env:
        values = [(quantity, quantity.decode(drawn)) for quantity, drawn in zip(self.quantities, task, strict=True)]
        drawn_kwargs = {quantity.name: value for quantity, value in values if quantity.setting in _ON_KWARGS}
        env = make_env(self.env_id, self.horizon, self.kwargs | drawn_kwargs)
        edited = [(quantity, value) for quantity, value in values if quantity.setting in _ON_ATTRIBUTES]
        derived = list(entries(self.derived))
        with contextlib.ExitStack() as stack:
            for model in _models(env, [quantity.name for quantity, _ in edited] + [path for path, _ in derived]):
                stack.enter_context(completed(model))
            for quantity, value in edited:
                _set(env, quantity, value)
            for path, expression in derived:
                attributes.write(env.unwrapped, path, attributes.compute(env.unwrapped, expression))
        return env


@dataclass(frozen=True)
class LunarLanderParams(GymTasks):
    """LunarLander whose gravity, wind and turbulence differ from task to task: `GymTasks` with other defaults.

    Gymnasium allows gravity from −12 to 0 and recommends wind up to 20 and turbulence up to 2. The range of gravity
    excludes values near 0, with which the lander never lands. It needs Box2D (extra `box2d`).
    """

    horizon: int = 1000
    env_id: str = "LunarLander-v3"
    randomize_kwargs: dict[str, Any] = field(
        default_factory=lambda: {"gravity": [-11.9, -6.0], "wind_power": [0.0, 15.0], "turbulence_power": [0.0, 1.5]}
    )
    kwargs: dict[str, Any] = field(default_factory=lambda: {"enable_wind": True})


def _models(env: Env, paths: Sequence[str]) -> list[mujoco.MjModel]:
    """The MuJoCo models that the paths lead through, each once."""
    owners = [owner for path in paths for owner, _ in attributes.owners(env.unwrapped, path)]
    return list({id(owner): owner for owner in owners if isinstance(owner, mujoco.MjModel)}.values())


def _set(env: Env, quantity: Quantity, value: Any) -> None:
    if quantity.setting == "scale":
        old = attributes.read(env.unwrapped, quantity.name)
        value = (np.asarray(old) if np.ndim(old) else old) * value
    attributes.write(env.unwrapped, quantity.name, value)


def _quantities(tasks: GymTasks) -> list[Quantity]:
    """The quantities that the settings name, checked against the environment. Raises ValueError."""
    on_kwargs = _kwargs_quantities(tasks)
    settings = {name: dict(entries(getattr(tasks, name) or {})) for name in _ON_ATTRIBUTES}
    if tasks.randomize is None and tasks.env_id == _DEFAULT_ENV and not on_kwargs and not any(settings.values()):
        settings["randomize"] = _DEFAULT_RANGES
    env = make_env(tasks.env_id, tasks.horizon, tasks.kwargs | {q.name: q.decode(_extreme(q, 0)) for q in on_kwargs})
    found = [*on_kwargs]
    for setting, values in settings.items():
        found += [_attribute_quantity(env, setting, path, value) for path, value in values.items()]
    for path, expression in entries(tasks.derived):
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
    """The value at a path. Raises ValueError with the names that exist, or if it may not be edited."""
    try:
        value = attributes.read(env.unwrapped, path)
        for owner, below in attributes.owners(env.unwrapped, path):
            refuse_other_edits(below, owner)
    except NoSuchAttributeError as error:
        raise _unknown(env, given, error) from None
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from None
    return value


def _unknown(env: Env, given: str, error: NoSuchAttributeError) -> ValueError:
    place = type(env.unwrapped).__name__ + (f".{error.where}" if error.where else "")
    return ValueError(f"{given}: {place} has no {error.name}; its numbers are {_names(error.owner, error.name)}")


def _names(owner: Any, name: str = "") -> str:
    return nearest_first(name, attributes.numeric(owner), limit=40) or "none"


def _probe(tasks: GymTasks) -> Spaces:
    """The spaces; makes and resets environments at the ends of all ranges and for all choices.

    Raises:
        ValueError: An environment cannot be made or reset, does not keep a value, or has other spaces than the first.
    """
    quantities = tasks.quantities
    count = min(max(2, *(len(quantity.choices) for quantity in quantities)), _MAX_PROBES)
    probes = [np.array([_extreme(quantity, i) for quantity in quantities]) for i in range(count)]
    given = [tasks.describe(GymTaskBatch(probe[None])) for probe in probes]
    rows = []
    for probe, named in zip(probes, given, strict=True):
        try:
            rows.append(Row(tasks.make_task_env(probe)))
        except (AttributeError, TypeError, OverflowError) as error:
            raise ValueError(f"env_id={tasks.env_id!r}: it does not take {named}: {error}") from error
    written = [_values(row, quantities) for row in rows]
    for row, named in zip(rows, given, strict=True):
        with _named(tasks, named):
            row.try_reset()
    spaces = [(row.flat_space, row.action_space) for row in rows]
    for row, own, named, probe, values in zip(rows, spaces, given, probes, written, strict=True):
        _check_kept(row, quantities, probe, values)
        if own != spaces[0]:
            raise ValueError(f"env_id={tasks.env_id!r}: with {named} it has other spaces than with other values; "
                             "need the same spaces for all tasks")  # fmt: skip
        with _named(tasks, named):
            row.try_step()
    for row in rows:
        row.close()
    return spaces[0]


@contextlib.contextmanager
def _named(tasks: GymTasks, values: Any) -> Iterator[None]:
    """Adds the environment and the values of the task to a ValueError of the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"env_id={tasks.env_id!r}: with {values} {error}") from error


def _extreme(quantity: Quantity, i: int) -> float:
    """Choice i modulo the number of choices, or an end of the range, just inside it for real numbers."""
    if quantity.choices:
        return float(i % quantity.num_values)
    inward = 0.0 if quantity.num_values else 1e-6 * (quantity.high - quantity.low)
    return quantity.high - inward if i % 2 else quantity.low + inward


def _values(row: Row, quantities: tuple[Quantity, ...]) -> dict[str, Any]:
    named = (quantity.name for quantity in quantities if quantity.setting in _ON_ATTRIBUTES)
    return {name: copy.deepcopy(attributes.read(row.unwrapped, name)) for name in named}


def _check_kept(row: Row, quantities: tuple[Quantity, ...], probe: NDArray[np.float64], values: dict[str, Any]) -> None:
    """Raises ValueError if an attribute lost its value, because a reset overwrites it or environments share it."""
    for quantity, drawn in zip(quantities, probe, strict=True):
        if quantity.setting not in _ON_ATTRIBUTES:
            continue
        written = values[quantity.name] if quantity.setting == "scale" else quantity.decode(drawn)
        now = attributes.read(row.unwrapped, quantity.name)
        same = np.allclose(now, written, rtol=1e-5) if np.asarray(now).dtype.kind in "fiu" else now == written
        if not same:
            raise ValueError(f"{quantity.key}: the environment does not keep it: {written!r} was written, but it is "
                             f"{now!r} after a reset; name the attributes that it is computed from, or an argument "
                             "(task_args.randomize_kwargs)")  # fmt: skip
