"""Gymnasium's environments as tasks, by settings alone."""

from __future__ import annotations

import platform
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from research import rng
from research.spaces import OneHot
from research.tasks import make_tasks
from research.tasks.gym_tasks import GymTasks
from research.tasks.quantities import Space, from_choices, from_range

needs_box2d = pytest.mark.skipif(
    sys.platform == "linux" and platform.machine() != "x86_64", reason="Box2D has no wheel here: requirements/run.txt"
)
PENDULUM = {"env_id": "Pendulum-v1", "randomize": {"g": [5.0, 15.0], "l": [0.5, 2.0]}}


class Counter(gymnasium.Env):
    """Counts to a limit that depends on the task. What it shows, takes and does is up to the test."""

    shared = [1.0, 2.0]  # noqa: RUF012 - of the class, on purpose
    name = "counter"

    def __init__(self, limit: float = 3.0, observation_space=None, action_space=None):
        self.limit = limit
        self.whole = 4
        self.start = 0.0
        self.table = np.array([[1.0, 2.0], [3.0, 4.0]])
        self.observation_space = observation_space or spaces.Box(-1.0, 1.0, (2, 2), np.float64)
        self.action_space = action_space or spaces.Box(-2.0, 1.0, (2, 1), np.float32)
        self.actions = []

    @property
    def double(self):
        return 2 * self.limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start = float(self.np_random.uniform())
        self.count = 0
        return self.observation_space.sample() if self.dictionary else self.table, {}

    @property
    def dictionary(self):
        return not isinstance(self.observation_space, spaces.Box)

    def step(self, action):
        assert action in self.action_space, action
        self.actions.append(action)
        self.count += 1
        terminated = self.count >= self.limit
        return (self.observation_space.sample() if self.dictionary else self.table), 1.0, terminated, terminated, {}


LIMITS = {"limit": [2.0, 3.0]}


@pytest.fixture
def register():
    """Registers an environment for the time of a test."""
    added = []

    def add(env_id, entry_point=Counter, **kwargs):
        gymnasium.register(env_id, entry_point=entry_point, **kwargs)
        added.append(env_id)

    yield add
    for env_id in added:
        del gymnasium.registry[env_id]


def counter(register, **settings):
    if "Counter-v0" not in gymnasium.registry:
        register("Counter-v0", max_episode_steps=2, kwargs=settings.pop("registered", {}))
    return GymTasks(env_id="Counter-v0", **settings)


def first_task(distribution, num_tasks=1):
    return distribution.sample(num_tasks, rng.generator(0, "test"))


def rollout(step, actions):
    return [step(action) for action in actions]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_rows_are_gymnasiums_environment_with_its_attributes_edited(vectorization):
    distribution = GymTasks(**PENDULUM, horizon=30, vectorization=vectorization)
    tasks = first_task(distribution, 2)
    envs = distribution.make_envs(tasks, 2)
    observation, _ = envs.reset(seed=5)
    actions = rng.generator(0, "actions").uniform(-3, 3, (30, 4, 1)).astype(np.float32)
    shown = rollout(envs.step, actions)
    for row in range(4):
        env = gymnasium.make("Pendulum-v1", max_episode_steps=30)
        env.unwrapped.g, env.unwrapped.l = tasks.values[row // 2].tolist()
        np.testing.assert_array_equal(observation[row], env.reset(seed=5 + row)[0])
        for t, action in enumerate(actions[:, row]):
            expected = env.step(np.clip(action, -2, 2))
            np.testing.assert_array_equal(shown[t][0][row], expected[0])
            assert tuple(part[row] for part in shown[t][1:4]) == expected[1:4]
    envs.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"env_id": "Acrobot-v1", "randomize": {"LINK_LENGTH_1": [0.5, 2.0]}},
        {"env_id": "MountainCarContinuous-v0", "randomize": {"power": [0.001, 0.002]}},
        pytest.param({"env_id": "LunarLander-v3", "randomize_kwargs": {"gravity": [-12.0, -5.0]}}, marks=needs_box2d),
        {"env_id": "FrozenLake-v1", "choose_kwargs": {"map_name": ["4x4"], "is_slippery": [True, False]}},
        {"env_id": "HalfCheetah-v5", "scale": {"model.body_mass": [0.5, 2.0]}},
    ],
    ids=lambda settings: settings["env_id"],
)
def test_environments_that_the_code_never_mentions_work_by_settings_alone(settings):
    distribution = GymTasks(horizon=6, **settings)
    envs = distribution.make_envs(first_task(distribution, 2), 2)
    assert envs.reset(seed=0)[0].shape == (4, *distribution.observation_space.shape)
    envs.action_space.seed(0)
    ended = np.zeros(4, int)
    for _ in range(8):
        observation, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
        assert observation in envs.observation_space and np.isfinite(reward).all()
        ended += terminated | truncated
    assert (ended == 1).all()
    envs.close()


def test_cartpole_with_what_it_derives_is_cartpole_params():
    """The trap of attributes that are computed once, and the way out of it."""
    attributes = {"length": [0.25, 1.5], "masspole": [0.05, 0.5], "gravity": [5.0, 15.0]}
    derived = {"total_mass": "masspole + masscart", "polemass_length": "masspole * length"}
    right = GymTasks(env_id="CartPole-v1", randomize=attributes, derived=derived, horizon=40)
    wrong = GymTasks(env_id="CartPole-v1", randomize=attributes, horizon=40)
    batched = make_tasks("cartpole_params", horizon=40)
    tasks = first_task(right, 5)
    known = batched.sample(5, rng.generator(0, "test"))._replace(
        half_length=tasks.values[:, 0], pole_mass=tasks.values[:, 1], gravity=tasks.values[:, 2]
    )
    envs = [right.make_envs(tasks, 1), wrong.make_envs(tasks, 1), batched.make_envs(known, 1)]
    for env in envs:
        env.reset(seed=[1, 2, 3, 4, 5])
    parts = [[env.step(np.full(5, t % 2))[:4] for t in range(40)] for env in envs]
    for ours, theirs in zip(parts[0], parts[2], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(parts[1][5][0], parts[2][5][0]), "without `derived` half of the equations are stale"


def test_the_horizon_takes_the_place_of_the_environments_own_limit_and_ended_rows_rest(register):
    distribution = counter(register, randomize={"limit": [4.0, 9.0]}, horizon=6)
    task = first_task(distribution)._replace(values=np.array([[4.0], [8.0]]))
    envs = distribution.make_envs(task, 1)
    envs.reset(seed=0)
    shown = rollout(envs.step, np.zeros((8, 2, 2), np.float32))
    assert [tuple(part[1]) for part in shown] == [(1.0, 1.0)] * 4 + [(0.0, 1.0)] * 2 + [(0.0, 0.0)] * 2
    assert [tuple(part[2]) for part in shown] == [(t == 3, False) for t in range(8)], "terminated, and not truncated"
    assert [tuple(part[3]) for part in shown] == [(False, t == 5) for t in range(8)]
    assert len(envs._rows.envs[0].unwrapped.actions) == 4, "a row that has ended does no work"


def test_a_mask_resets_some_rows_and_a_missing_seed_is_drawn(register):
    distribution = counter(register, randomize={"limit": [2.0, 3.0]}, horizon=6)
    envs = distribution.make_envs(first_task(distribution, 3), 1)
    envs.reset(seed=0)
    rollout(envs.step, np.zeros((4, 3, 2), np.float32))
    mask = np.array([True, False, True])
    options = {"reset_mask": mask}
    envs.reset(seed=3, options=options)
    assert options["reset_mask"] is mask, "the caller's options are left as they are"
    np.testing.assert_array_equal(envs.step(np.zeros((3, 2), np.float32))[1], [1.0, 0.0, 1.0])
    starts = []
    for seed in (0, None, 0, None):
        envs.reset(seed=seed)
        starts.append([env.unwrapped.start for env in envs._rows.envs])
    assert starts[:2] == starts[2:] and starts[0] != starts[1]
    np.testing.assert_array_equal(envs.step(np.zeros((3, 2), np.float32))[1], [1.0] * 3)


def test_actions_are_clipped_and_shaped_and_observations_flattened(register):
    distribution = counter(register, randomize={"limit": [2.0, 3.0]})
    assert distribution.action_space == spaces.Box(-2.0, 1.0, (2,), np.float32)
    assert distribution.observation_space == spaces.Box(-np.inf, np.inf, (4,), np.float64)
    envs = distribution.make_envs(first_task(distribution), 1)
    np.testing.assert_array_equal(envs.reset(seed=0)[0], [[1.0, 2.0, 3.0, 4.0]])
    envs.step(np.array([[-5.0, 5.0]], np.float32))
    np.testing.assert_array_equal(envs._rows.envs[0].unwrapped.actions, [[[-2.0], [1.0]]])


def test_discrete_actions_count_from_0_and_dictionaries_become_vectors(register):
    observed = spaces.Dict({"place": spaces.Discrete(3), "speed": spaces.Box(-1, 1, (2,), np.float32)})
    kwargs = {"observation_space": observed, "action_space": spaces.Discrete(2, start=5)}
    distribution = counter(register, randomize={"limit": [2.0, 3.0]}, registered=kwargs)
    assert distribution.action_space == spaces.Discrete(2)
    envs = distribution.make_envs(first_task(distribution), 1)
    observation, _ = envs.reset(seed=0)
    assert observation.shape == (1, 5) and observation in envs.observation_space
    assert sorted(observation[0, :3]) == [0, 0, 1], "one-hot"
    envs.step(np.array([1]))
    assert envs._rows.envs[0].unwrapped.actions == [6]


def test_discrete_observations_are_one_hot(register):
    states = counter(register, randomize=LIMITS, registered={"observation_space": spaces.Discrete(3)})
    assert states.observation_space == OneHot(3)
    assert states.make_envs(first_task(states), 2).reset(seed=0)[0].sum(1).tolist() == [1.0, 1.0]


def test_numbers_from_0_to_1_are_not_one_hot(register):
    numbers = counter(register, randomize=LIMITS, registered={"observation_space": spaces.Box(0.0, 1.0, (4,))})
    assert not isinstance(numbers.observation_space, OneHot)


def test_declared_one_hot_observations_are_verified(register):
    with pytest.raises(ValueError, match=r"an observation is \[1\.0, 2\.0, 3\.0, 4\.0\], and its space OneHot\(4\)"):
        counter(register, randomize=LIMITS, registered={"observation_space": OneHot(4)})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"observation_space": spaces.Graph(spaces.Discrete(2), None)},
            "observation space Graph.*: need one that flat",
        ),
        (
            {"action_space": spaces.MultiDiscrete([2, 2])},
            "action space MultiDiscrete.*: need Discrete or a Box of float",
        ),
        ({"action_space": spaces.Box(0, 9, (1,), np.int64)}, "action space Box.*: need Discrete or a Box of floating"),
    ],
)
def test_spaces_that_no_policy_can_serve_are_refused(register, kwargs, message):
    with pytest.raises(ValueError, match=message):
        counter(register, randomize={"limit": [2.0, 3.0]}, registered=kwargs)


def test_what_settings_mean(register):
    distribution = counter(
        register,
        randomize={"whole": [2, 5], "shared[1]": [3, 4]},
        choose={"name": ["a", "b"]},
        scale={"table": [2.0, 3.0]},
        choose_kwargs={"limit": [7.0, 8.0]},
    )
    tasks = first_task(distribution, 40)
    values = distribution.describe(tasks)
    assert set(values["randomize.whole"]) == {2, 3, 4, 5} and all(type(v) is int for v in values["randomize.whole"])
    assert len(set(values["randomize.shared[1]"])) == 40, "of a real number, whole ends or not"
    assert set(values["choose.name"]) == {"a", "b"} and set(values["choose_kwargs.limit"]) == {7.0, 8.0}
    for row, env in enumerate(distribution.make_envs(tasks, 1)._rows.envs):
        made = env.unwrapped
        own = {key: column[row] for key, column in values.items()}
        assert (made.whole, made.name) == (own["randomize.whole"], own["choose.name"])
        assert made.limit == own["choose_kwargs.limit"]
        assert made.shared == [1.0, own["randomize.shared[1]"]]
        np.testing.assert_array_equal(made.table, np.array([[1.0, 2.0], [3.0, 4.0]]) * own["scale.table"])
    assert Counter.shared == [1.0, 2.0] and Counter.name == "counter", "what environments share is left alone"


def test_arguments_of_whole_numbers_follow_their_default(register):
    real = counter(register, randomize_kwargs={"limit": [2, 9]})
    assert len(set(real.describe(first_task(real, 50))["randomize_kwargs.limit"])) == 50
    whole = GymTasks(env_id="HalfCheetah-v5", randomize_kwargs={"frame_skip": [2, 4]}, horizon=1)
    assert set(whole.describe(first_task(whole, 50))["randomize_kwargs.frame_skip"]) <= {2, 3, 4}


def test_nested_settings_of_a_command_line_are_paths():
    flat = GymTasks(env_id="HalfCheetah-v5", randomize={"model.opt.gravity[2]": [-12.0, -5.0]})
    nested = GymTasks(env_id="HalfCheetah-v5", randomize={"model": {"opt": {"gravity[2]": [-12.0, -5.0]}}})
    assert flat.quantities == nested.quantities
    (env,) = nested.make_envs(first_task(nested), 1)._rows.envs
    assert env.unwrapped.model.opt.gravity[2] == first_task(nested).values[0, 0]


def test_draws_are_uniform_and_independent():
    space = Space([from_range("randomize", "a", [2.0, 4.0], 1.0), from_range("randomize", "b", [1, 4], 1)], 0.2)
    drawn = space.draw(4000, rng.generator(0, "test"))
    assert np.histogram(drawn[:, 0], 4, (2.0, 4.0))[0] == pytest.approx([1000] * 4, abs=130)
    assert np.unique(drawn[:, 1], return_counts=True)[1] == pytest.approx([1000] * 4, abs=130)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.06


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.9])
def test_finitely_many_tasks_are_split_in_two(fraction):
    space = Space([from_range("randomize", "a", [3, 9], 1), from_choices("choose", "b", ["x", "y", "z"])], fraction)
    assert space.size == 21
    held_out = {tuple(task) for task in space.held_out(space.num_held_out)}
    trained = {tuple(task) for task in space.draw(3000, rng.generator(0, "test"))}
    assert len(held_out) == space.num_held_out == max(1, round(fraction * 21))
    assert not held_out & trained
    assert held_out | trained == {(a, b) for a in range(3, 10) for b in range(3)}
    with pytest.raises(ValueError, match=f"num_eval_tasks=22: of the 21 tasks that there are, {len(held_out)} are"):
        space.held_out(22)


def test_a_space_too_large_to_list_is_split_all_the_same():
    space = Space([from_range("randomize", "seed", [0, 10**12], 1)], 0.5)
    held_out = space.held_out(10_000)
    assert len(np.unique(held_out)) == 10_000 and held_out.max() > 9e11
    assert not set(held_out[:, 0]) & set(space.draw(1000, rng.generator(0, "test"))[:, 0])


def test_two_tasks_are_one_for_training_and_one_held_out():
    distribution = GymTasks(env_id="FrozenLake-v1", choose_kwargs={"is_slippery": [True, False]})
    trained = set(distribution.describe(first_task(distribution, 30))["choose_kwargs.is_slippery"])
    held_out = set(distribution.describe(distribution.test_tasks(1))["choose_kwargs.is_slippery"])
    assert trained | held_out == {True, False} and len(trained) == len(held_out) == 1
    assert distribution.split.disjoint
    assert distribution.split.how.startswith("1 of the 2 tasks are held out")


CARTPOLE = {"env_id": "CartPole-v1"}
LANDER = {"env_id": "LunarLander-v3"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_id": "Pendulm-v1"}, r"env_id='Pendulm-v1': no such environment; there are Pendulum-v1, .*Acrobot-v1"),
        ({"env_id": "nowhere:Pendulum-v1"}, "env_id='nowhere:Pendulum-v1': there is no module nowhere"),
        ({"env_id": "CartPole-v1"}, "nothing differs from task to task; .*length.*sutton_barto_reward"),
        (CARTPOLE | {"randomize": {"lenght": [1, 2]}}, r"randomize.lenght=.*: .* no lenght; its numbers are length,"),
        (CARTPOLE | {"randomize": {"length": [2.0, 1.0]}}, r"randomize.length=\[2.0, 1.0\]: need the lower end first"),
        (CARTPOLE | {"randomize": {"length": 2.0}}, r"randomize.length=2.0: need a range of two numbers"),
        (CARTPOLE | {"randomize": {"length": [1.0, 2.0, 3.0]}}, "randomize.length=.*: need a range of two numbers"),
        (CARTPOLE | {"randomize": {"length": [0.0, np.nan]}}, "randomize.length=.*: need a range of two numbers"),
        (CARTPOLE | {"randomize": {"length": {}}}, r"randomize.length=\{\}: need a range of two numbers"),
        (CARTPOLE | {"randomize": {"length": [1.0, 1.0]}}, "randomize.length: every task is the same"),
        (CARTPOLE | {"randomize": {"length[0]": [1, 2]}}, r"randomize.length\[0\]=.*: CartPoleEnv.length has no \[0\]"),
        (CARTPOLE | {"randomize": {"le ngth": [1, 2]}}, "randomize.le ngth=.*: 'le ngth' is no path of attributes"),
        (CARTPOLE | {"randomize": {"kinematics_integrator": [1, 2]}}, "it is 'euler'; need the name of a number"),
        (CARTPOLE | {"choose": {"length": 1.0}}, "choose.length=1.0: need a list of values"),
        (CARTPOLE | {"choose": {"length": [1.0, 1.0]}}, r"choose.length=\[1.0, 1.0\]: need every value once"),
        (CARTPOLE | {"scale": {"masspole": [-1.0, 2.0]}}, r"scale.masspole=\[-1.0, 2.0\]: need factors above 0"),
        (
            CARTPOLE | {"randomize": {"length": [1, 2]}, "choose": {"length": [3, 4]}},
            "length: named by more than one of",
        ),
        (CARTPOLE | {"randomize": {"length": [1, 2]}, "derived": {"total": "length"}}, "derived.total=.* has no total"),
        (
            CARTPOLE | {"randomize": {"length": [1, 2]}, "derived": {"total_mass": "masspole + cart"}},
            r"derived.total_mass='masspole \+ cart': CartPoleEnv has no cart; .*masscart",
        ),
        (
            CARTPOLE | {"randomize": {"length": [1, 2]}, "derived": {"total_mass": "max(masspole, 1)"}},
            "is no expression of numbers",
        ),
        (
            CARTPOLE | {"randomize": {"length": [1, 2]}, "derived": {"total_mass": "1 +"}},
            r"derived.total_mass='1 \+': '1 \+' is no expression",
        ),
        (
            CARTPOLE | {"randomize": {"length": [1, 2]}, "derived": {"total_mass": 3}},
            "derived.total_mass=3: need an exp",
        ),
        (PENDULUM | {"horizon": 0}, "horizon=0: need a value above 0"),
        (PENDULUM | {"test_fraction": 1.0}, "test_fraction=1.0: need a value between 0 and 1"),
        (PENDULUM | {"vectorization": "threads"}, "vectorization='threads': need one of 'sync', 'async'"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_they_are_made(settings, message):
    with pytest.raises(ValueError, match=message):
        GymTasks(**settings)


@needs_box2d
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LANDER | {"randomize_kwargs": {"gravty": [-9, -5]}}, r"randomize_kwargs.gravty=.*; it takes gravity, .*wind"),
        (
            LANDER | {"kwargs": {"gravty": -9}, "randomize_kwargs": {"gravity": [-9, -5]}},
            "^kwargs.gravty=-9: .*takes g",
        ),
        (LANDER | {"randomize_kwargs": {"gravity": [-20.0, -5.0]}}, "cannot be made with gravity=-19.9.*between -12"),
        (
            LANDER | {"kwargs": {"gravity": -9}, "randomize_kwargs": {"gravity": [-9, -5]}},
            "gravity=.*: it is given twi",
        ),
        (LANDER | {"randomize_kwargs": {"gravity": [-5.0, -5.0]}}, "randomize_kwargs.gravity: every task is the same"),
    ],
)
def test_arguments_that_cannot_be_are_refused_when_settings_are_made(settings, message):
    with pytest.raises(ValueError, match=message):
        GymTasks(**settings)


def test_no_episodes_are_refused():
    distribution = GymTasks()
    with pytest.raises(ValueError, match="episodes=0"):
        distribution.make_envs(first_task(distribution), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"randomize": {"start": [2.0, 3.0]}},
            r"randomize.start: the environment does not keep it: 2\.\d+ was written",
        ),
        ({"randomize": {"double": [2.0, 3.0]}}, "it does not take .*randomize.double"),
        ({"randomize": {"table": [2.0, 3.0]}}, r"need the name of a number; name an entry, e.g. table\[0\], or use"),
    ],
)
def test_attributes_that_would_not_hold_are_refused(register, settings, message):
    with pytest.raises(ValueError, match=message):
        counter(register, **settings)


def test_attributes_that_rows_share_are_refused(register):
    class Sharing(Counter):
        class Physics:
            mass = 1.0

        physics = Physics()

    register("Sharing-v0", Sharing)
    with pytest.raises(ValueError, match=r"randomize.physics.mass: the environment does not keep it"):
        GymTasks(env_id="Sharing-v0", randomize={"physics.mass": [1.0, 2.0]})


def test_tasks_whose_spaces_differ_are_refused(register):
    spaces_of = [spaces.Discrete(2), spaces.Discrete(3)]
    with pytest.raises(ValueError, match="it has other spaces than with other values"):
        counter(register, choose_kwargs={"action_space": spaces_of})


def test_an_environment_that_cannot_be_reset_is_refused(register):
    class Broken(Counter):
        def reset(self, *, seed=None, options=None):
            if self.limit > 2.5:
                raise RuntimeError("the limit is too high")
            return super().reset(seed=seed)

    register("Broken-v0", Broken)
    with pytest.raises(ValueError, match=r"with .*limit.* cannot be reset: RuntimeError\('the limit is too high'\)"):
        GymTasks(env_id="Broken-v0", randomize={"limit": [2.0, 3.0]})


def test_a_missing_package_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ValueError, match=r"env_id='LunarLander-v3': the package Box2D is missing: .*pip install"):
        GymTasks(env_id="LunarLander-v3", randomize_kwargs={"gravity": [-9.0, -5.0]})


class FourValues(Counter):
    def step(self, action):
        return self.table, 1.0, False, {}


class BareReset(Counter):
    def reset(self, *, seed=None, options=None):
        return np.zeros(2)


class PairOfNumbers(Counter):
    """An observation of two numbers, which unpacks like a pair."""

    def __init__(self, limit=3.0):
        super().__init__(limit, spaces.Box(-1.0, 1.0, (2,)))

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32)


class NoSeed(Counter):
    def reset(self):
        return self.table, {}


class Larger(Counter):
    def step(self, action):
        return np.zeros((3, 2)), 1.0, False, False, {}


class LargerAtReset(Counter):
    def reset(self, *, seed=None, options=None):
        return np.zeros((3, 2)), {}


class NoReward(Counter):
    def step(self, action):
        return self.table, None, False, False, {}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (FourValues, r"it cannot be stepped: not enough values to unpack .*; need Gymnasium's step\(action\), which "),
        (BareReset, r"it cannot be reset: reset returns ndarray; need the pair \(observation, info\)"),
        (PairOfNumbers, r"it cannot be reset: reset returns ndarray; need the pair \(observation, info\)"),
        (NoSeed, r"it cannot be reset: TypeError.*'seed'.*; need Gymnasium's reset\(seed=..., options=...\)"),
        (Larger, r"it cannot be stepped: an observation has 6 numbers; its space Box.* has 4"),
        (LargerAtReset, r"it cannot be reset: an observation has 6 numbers; its space Box.* has 4"),
        (NoReward, r"it cannot be stepped: TypeError"),
    ],
)
@pytest.mark.parametrize("task", ["gym_env", "gym_tasks"])
def test_environments_of_another_interface_are_refused_before_any_work(register, task, kind, message):
    register("Other-v0", kind)
    settings = {"randomize_kwargs": {"limit": [2.0, 3.0]}} if task == "gym_tasks" else {}
    with pytest.raises(ValueError, match=rf"^env_id='Other-v0': .*{message}"):
        make_tasks(task, env_id="Other-v0", **settings)
