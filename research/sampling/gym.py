"""Any Gymnasium environment by its id, and vector environments whose rows are such environments.

This serves environments that have no batched version. Every row is a separate Python object, so it is slower than
`MujocoEnvs` and `RowEnvs`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from research import rng
from research.sampling.vector import Options, Seed, Started, Stepped, TaskEnvs
from research.spaces import OneHot

Env = gymnasium.Env[Any, Any]

_FRAMES_PER_SECOND = 30

_RESET = "need Gymnasium's reset(seed=..., options=...), which returns (observation, info)"
_STEP = "need Gymnasium's step(action), which returns (observation, reward, terminated, truncated, info)"

MAX_OBSERVATION = 4096
"""Longest observation vector that is accepted: the linear baseline has one or two weights per entry."""


def find_spec(env_id: str) -> EnvSpec:
    """Returns the specification registered as `env_id`. For `module:id` the module is imported first.

    Raises:
        ValueError: No environment has that id; the message lists the ids that exist, the most similar first.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(f"env_id={env_id!r}: there is no module {error.name}; install it, or correct "
                             f"the name before the colon") from error  # fmt: skip
    if name not in gymnasium.registry:
        raise ValueError(f"env_id={env_id!r}: no such environment; there are {nearest_first(name, gymnasium.registry)}")
    return gymnasium.registry[name]


def make_env(env_id: str, horizon: int, kwargs: Mapping[str, Any]) -> Env:
    """Makes the environment `env_id` with a limit of `horizon` steps instead of its own limit.

    Raises:
        ValueError: The environment does not exist, needs a package that is missing, or refuses an argument.
    """
    spec = find_spec(env_id)
    refuse_unknown_kwargs(env_id, kwargs)
    try:
        return gymnasium.make(spec, max_episode_steps=horizon, disable_env_checker=True, **kwargs)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise _missing(env_id, error) from error
    except (gymnasium.error.Error, AssertionError, OSError, TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in kwargs.items()) or "no arguments"
        raise ValueError(f"env_id={env_id!r}: it cannot be made with {given}: {_reason(error)}") from error


def parameters(env_id: str) -> Mapping[str, inspect.Parameter]:
    """Returns the arguments of the constructor of an environment. Raises ValueError as `make_env`."""
    spec = find_spec(env_id)
    if spec.entry_point is None:
        raise ValueError(f"env_id={env_id!r}: it exists as a vector environment only; need one that makes single ones")
    try:
        creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise _missing(env_id, error) from error
    return inspect.signature(creator).parameters


def refuse_unknown_kwargs(env_id: str, kwargs: Mapping[str, Any], setting: str = "kwargs") -> None:
    """Refuses arguments that the constructor of an environment does not have.

    Args:
        env_id: Id of the environment.
        kwargs: Argument → value.
        setting: Name of the setting that has these arguments, for the message.

    Raises:
        ValueError: An argument does not exist; the message lists the arguments that do.
    """
    known = parameters(env_id)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name, value in kwargs.items():
        if name not in known:
            raise ValueError(f"{setting}.{name}={value!r}: {env_id} cannot be made with such an argument; it takes "
                             f"{nearest_first(name, known) or 'none'}")  # fmt: skip


def nearest_first(name: str, known: Mapping[str, Any] | Sequence[str], limit: int = 100) -> str:
    """Returns at most `limit` of the known names as a comma-separated text, the most similar to `name` first."""
    nearest = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    names = [*nearest, *sorted(set(known) - set(nearest))]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _missing(env_id: str, error: Exception) -> ValueError:
    name = getattr(error, "name", None) or getattr(error.__cause__, "name", None)
    package = f"the package {name} is missing" if name else "something that it needs is missing"
    return ValueError(f"env_id={env_id!r}: {package}: {_reason(error)}")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else repr(error)


class Row(gymnasium.Wrapper[NDArray[Any], Any, Any, Any]):
    """Wrapper that makes an environment a row of `GymEnvs`: vector observations, clipped actions, rest after the end.

    Observations of any space that NumPy can flatten become a vector (Discrete: one-hot; Dict, Tuple: concatenated). It
    is declared as `OneHot` where it is one-hot, and otherwise without bounds, because a change of attributes may move
    an environment out of its declared bounds. Box actions beyond their bounds act as the nearest bound; Discrete
    actions count from 0.

    A row that has ended returns its last observation with reward 0 until it is reset with a seed. A reset without a
    seed comes from Gymnasium's vector environment in NEXT_STEP mode, and has no effect on a row that has ended.

    Raises:
        ValueError: The observations cannot be flattened or are images, or the actions are neither Discrete nor a Box
            of floating-point numbers. Later: a reset or a step returns what Gymnasium's interface does not have.
    """

    def __init__(self, env: Env):
        super().__init__(env)
        self._observed = env.observation_space
        if not self._observed.is_np_flattenable:
            raise ValueError(f"observation space {self._observed}: need one that flattens to a vector, i.e. Box, "
                             "Discrete, MultiBinary, MultiDiscrete, or a Dict or Tuple of such")  # fmt: skip
        flat = spaces.utils.flatten_space(self._observed)
        assert isinstance(flat, spaces.Box)
        if flat.shape[0] > MAX_OBSERVATION:
            raise ValueError(f"observation space {self._observed}: a vector of {flat.shape[0]} numbers; need at most "
                             f"{MAX_OBSERVATION}, images are not supported")  # fmt: skip
        dtype = np.float64 if flat.dtype == np.float64 else np.float32
        self.flat_space: spaces.Box = spaces.Box(-np.inf, np.inf, flat.shape, dtype)
        if isinstance(self._observed, (spaces.Discrete, OneHot)):
            self.flat_space = OneHot(flat.shape[0])
        self.observation_space = self.flat_space
        self.action_space, self._to_action = _actions(env.action_space)
        self._last: NDArray[Any] | None = None
        self._ended = False

    def reset(self, *, seed: int | None = None, options: Options = None) -> Started:
        """Starts an episode, unless the row has ended and no seed is given."""
        if self._last is None or not self._ended or seed is not None:
            returned: Any = self.env.reset(seed=seed, options=options)
            if not isinstance(returned, tuple) or len(returned) != 2:  # an array of two numbers unpacks, too
                raise ValueError(f"reset returns {type(returned).__name__}; need the pair (observation, info)")
            self._last, self._ended = self._flat(returned[0]), False
        return self._last, {}

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Steps the environment unless it has ended. A step is never both terminated and truncated."""
        if self._ended:
            assert self._last is not None
            return self._last, 0.0, False, False, {}
        observation, reward, terminated, truncated, _ = self.env.step(self._to_action(action))
        self._last, self._ended = self._flat(observation), bool(terminated or truncated)
        return self._last, float(reward), bool(terminated), bool(truncated and not terminated), {}

    def _flat(self, observation: Any) -> NDArray[Any]:
        flat = np.asarray(spaces.utils.flatten(self._observed, observation), self.flat_space.dtype)
        if flat.shape != self.flat_space.shape:
            raise ValueError(f"an observation has {flat.size} numbers; its space {self._observed} has "
                             f"{self.flat_space.shape[0]}")  # fmt: skip
        if isinstance(self.flat_space, OneHot) and flat not in self.flat_space:
            raise ValueError(f"an observation is {flat.tolist()}, and its space {self._observed} has one-hot vectors; "
                             "declare a Box")  # fmt: skip
        return flat

    def try_reset(self) -> None:
        """Resets the environment with a seed. Raises ValueError if that fails, e.g. in the interface of Gym < 0.26."""
        try:
            self.reset(seed=0)
        except Exception as error:
            raise ValueError(f"it cannot be reset: {_said(error)}; {_RESET}") from error

    def try_step(self) -> None:
        """Steps the environment after a reset. Raises ValueError if that fails, e.g. in the interface of Gym < 0.26."""
        self.action_space.seed(0)
        try:
            self.step(self.action_space.sample())
        except Exception as error:
            raise ValueError(f"it cannot be stepped: {_said(error)}; {_STEP}") from error


def _actions(space: gymnasium.Space[Any]) -> tuple[gymnasium.Space[Any], Callable[[Any], Any]]:
    """The action space of the policy, and a function from its actions to those of `space`."""
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return spaces.Discrete(int(space.n)), lambda action: first + int(action)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        flat = spaces.Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype.type)
        return flat, lambda action: np.clip(action, flat.low, flat.high).astype(space.dtype).reshape(space.shape)
    raise ValueError(f"action space {space}: need Discrete or a Box of floating-point numbers")


class _SyncRows(SyncVectorEnv):
    """Gymnasium's vector environment of `Row`s that are stepped one after the other.

    Gymnasium's own step collects infos, resets rows and copies deeply, in more time than a step of CartPole takes. No
    row needs it: a `Row` that has ended stays as it is.
    """

    def step(self, actions: NDArray[Any]) -> Stepped:
        """Steps every row; the infos of the rows are dropped."""
        for row, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            self._env_obs[row], self._rewards[row], *ended, _ = env.step(action)
            self._terminations[row], self._truncations[row] = ended
        observation = np.array(self._env_obs, self.observation_space.dtype)
        return observation, self._rewards.copy(), self._terminations.copy(), self._truncations.copy(), {}


class GymEnvs(TaskEnvs):
    """Gymnasium's vector environments over `Row`s, without autoreset.

    Args:
        makers: Functions that make the environment of each row.
        vectorization: `"sync"` steps the rows one after the other, `"async"` in one process per row, which is faster
            for few rows of a slow environment only.
    """

    def __init__(self, makers: Sequence[Callable[[], Env]], vectorization: Literal["sync", "async"] = "sync"):
        rows = [functools.partial(_make_row, make) for make in makers]  # processes need functions that can be pickled
        kind = _SyncRows if vectorization == "sync" else AsyncVectorEnv
        self._rows = kind(rows, autoreset_mode=AutoresetMode.NEXT_STEP)
        super().__init__(len(rows), self._rows.single_observation_space, self._rows.single_action_space)

    def reset(self, *, seed: Seed = None, options: Options = None) -> Started:
        """Starts an episode in every row, or in those of `options["reset_mask"]`.

        Row i gets `seed + i`, as in every Gymnasium vector environment, or the i-th seed of a list. If the rows are
        part of a larger batch (`options["rows"]`), i is the number in that batch. Without a seed, the seeds are drawn
        from the generator that the last seed made.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        numbers = rng.rows_of(options, self.num_envs).number.tolist()
        given = [seed + row for row in numbers] if isinstance(seed, int) else seed
        drawn = self.np_random.integers(2**31, size=self.num_envs)
        own = [int(drawn[row]) if given is None or given[row] is None else given[row] for row in range(self.num_envs)]
        # The inner environment takes the mask out of the options.
        inner = {key: value for key, value in (options or {}).items() if key != "rows"}
        return self._rows.reset(seed=own, options=inner or None)

    def step(self, actions: NDArray[Any]) -> Stepped:
        """Steps every row that has not ended. The `info` of the environments is dropped."""
        observation, reward, terminated, truncated, _ = self._rows.step(actions)
        return observation, reward, terminated, truncated, {}

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments of the rows, and their processes."""
        self._rows.close(**kwargs)


class DrawnGymEnvs(GymEnvs):
    """`GymEnvs` that draw pictures of their rows.

    Args:
        makers: Functions that make the environment of each row, with `render_mode="rgb_array"`.
        env_id: Id of the environments, for messages.

    Attributes:
        dt: Seconds between two steps: the inverse of the environment's `render_fps`, or 1/30 without it.
    """

    def __init__(self, makers: Sequence[Callable[[], Env]], env_id: str):
        super().__init__(makers)
        self._env_id = env_id
        self.dt = 1.0 / float(self._rows.metadata.get("render_fps") or _FRAMES_PER_SECOND)

    def draw(self, row: int) -> NDArray[np.uint8]:
        """Returns a picture `[height, width, 3]` of a row. Raises ValueError if the environment draws none."""
        assert isinstance(self._rows, SyncVectorEnv)
        try:
            picture = self._rows.envs[row].render()
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise _missing(self._env_id, error) from error
        except (gymnasium.error.Error, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"env_id={self._env_id!r}: it cannot be drawn: {_reason(error)}") from error
        if not isinstance(picture, np.ndarray):
            raise ValueError(f"env_id={self._env_id!r}: it draws {type(picture).__name__}, need an array of pixels "
                             "for render_mode='rgb_array'")  # fmt: skip
        return picture


def _make_row(make: Callable[[], Env]) -> Env:
    return Row(make())
