"""The replay buffer: what is drawn, how often, what follows it, and what a copy needs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from research import rng
from research.sampling.replay_buffer import ReplayBuffer, Transitions
from research.sampling.sum_tree import SumTree


def stream(steps, rows=1, start=0, seed=0):
    """Numbered transitions: observation i of a row leads to i + 1; episodes end now and then, in either way."""
    draws = rng.generator(seed, "stream", start)
    observation = np.arange(start, start + steps, dtype=np.float32)[:, None, None] + 1000 * np.arange(rows)[:, None]
    terminated = draws.random((steps, rows)) < 0.15
    ended = terminated | (draws.random((steps, rows)) < 0.15)
    reward = draws.normal(size=(steps, rows)).astype(np.float32)
    return Transitions(observation, draws.integers(3, size=(steps, rows)), reward, observation + 1, terminated, ended)


def make(capacity, rows=1, **settings):
    return ReplayBuffer(capacity, rows, np.zeros(1, np.float32), 3, **settings)


def joined(*streams):
    return Transitions(*(np.concatenate(fields) for fields in zip(*streams, strict=True)))


def followed(history, time, row, discount, n_step):
    """Return, bootstrap and last observation, step by step, as long as the episode and the history go."""
    total, power = 0.0, 1.0
    for t in range(time, min(time + n_step, len(history.reward))):
        total += power * history.reward[t, row]
        power *= discount
        if history.ended[t, row]:
            break
    return total, 0.0 if history.terminated[t, row] else power, history.next_observation[t, row]


@pytest.mark.parametrize("n_step", [1, 2, 5])
@pytest.mark.parametrize(("rows", "capacity", "lengths"), [(1, 50, [20]), (1, 10, [7, 6, 9]), (3, 31, [4, 4, 4, 13])])
def test_every_transition_is_followed_as_far_as_its_episode_and_the_record_go(n_step, rows, capacity, lengths):
    starts = np.cumsum([0, *lengths[:-1]])
    parts = [stream(length, rows, start) for length, start in zip(lengths, starts, strict=True)]
    buffer = make(capacity, rows)
    for part in parts:
        buffer.add(part)
    kept = min(sum(lengths), capacity // rows)
    history = Transitions(*(field[-kept:] for field in joined(*parts)))
    assert len(buffer) == kept * rows
    batch = buffer.take(np.arange(len(buffer)), 0.9, n_step)
    seen = set()
    for i in range(len(buffer)):
        row = int(batch.observation[i, 0]) // 1000
        time = int(batch.observation[i, 0]) % 1000 - (sum(lengths) - kept)
        seen.add((time, row))
        total, bootstrap, last = followed(history, time, row, 0.9, n_step)
        np.testing.assert_allclose([batch.reward[i], batch.bootstrap[i]], [total, bootstrap], rtol=1e-5, atol=1e-6)
        assert batch.next_observation[i] == last and batch.action[i] == history.action[time, row]
    assert seen == set(itertools.product(range(kept), range(rows))), "the oldest make way, and no other"


def test_more_steps_than_there_is_room_for_leave_the_last():
    buffer = make(4)
    buffer.add(stream(11))
    np.testing.assert_array_equal(np.sort(buffer.take(np.arange(4), 0.9).observation[:, 0]), [7, 8, 9, 10])


def test_uniform_draws_are_uniform_within_each_task():
    buffer = make(24, rows=4, num_tasks=2)
    buffer.add(stream(5, rows=4))
    index = buffer.draw_uniformly((50, 400), rng.generator(0, "test"))
    assert index.shape == (2, 50, 400)
    rows = buffer.take(index, 0.9).observation[..., 0] // 1000
    for task, own in enumerate(((0, 1), (2, 3))):
        assert set(np.unique(rows[task])) == set(own)
        counts = np.bincount(index[task].ravel(), minlength=20)
        counts = counts[counts > 0]
        assert len(counts) == 10
        np.testing.assert_allclose(counts / 20000, 0.1, atol=4 * np.sqrt(0.09 / 20000))


@pytest.mark.thorough
def test_prioritised_draws_follow_the_priorities_and_weights_correct_them():
    buffer = make(8, priority_exponent=0.7)
    buffer.add(stream(6))
    errors = np.array([0.1, 2.0, 0.0, 1.0, 5.0, 0.5])
    buffer.set_priorities(np.arange(6), errors)
    expected = (errors + 1e-6) ** 0.7
    expected /= expected.sum()
    draws = rng.generator(0, "test")
    counts = np.zeros(6)
    for _ in range(2000):
        index, weight = buffer.draw_by_priority(10, draws, 0.4)
        counts += np.bincount(index, minlength=6)
        raw = (6 * expected[index]) ** -0.4
        np.testing.assert_allclose(weight, raw / raw.max(), rtol=1e-9)
    np.testing.assert_allclose(counts / 20000, expected, atol=4 * np.sqrt(0.25 / 20000))
    assert counts[4] > 5 * counts[0] > 0


def test_new_transitions_have_the_largest_priority_so_far():
    buffer = make(8, priority_exponent=1.0)
    buffer.add(stream(3))
    buffer.set_priorities(np.array([0, 1, 2]), np.array([7.0, 0.0, 0.0]))
    buffer.set_priorities(np.array([0]), np.array([1.0]))
    buffer.add(stream(1, start=3))
    index, _ = buffer.draw_by_priority(8000, rng.generator(0, "test"), 1.0)
    np.testing.assert_allclose((index == 3).mean(), 7 / 8, atol=0.01)


@pytest.mark.parametrize("size", [1, 2, 5, 64, 1000])
def test_the_tree_finds_what_a_running_sum_finds(size):
    tree, draws = SumTree(size), rng.generator(0, "tree")
    weights = np.zeros(size)
    for _ in range(5):
        index = draws.integers(size, size=7)
        values = draws.random(7)
        tree.set(index, values)
        weights[index] = values
        mass = draws.random(50) * tree.total
        expected = np.searchsorted(np.cumsum(weights), mass, side="right")
        np.testing.assert_array_equal(tree.find(mass), expected)
        np.testing.assert_allclose(tree.total, weights.sum())
        np.testing.assert_array_equal(tree.get(np.arange(size)), weights)


@pytest.mark.parametrize("exponent", [0.0, 0.6])
def test_a_buffer_goes_on_from_the_contents_of_another(exponent):
    def draw(buffer, seed):
        generator = rng.generator(seed, "draw")
        if not exponent:
            return buffer.take(buffer.draw_uniformly((20,), generator), 0.9, 3)
        return buffer.take(*((drawn := buffer.draw_by_priority(20, generator, 0.5))[0], 0.9, 3, drawn[1]))

    first = make(20, rows=2, priority_exponent=exponent)
    first.add(stream(13, rows=2))
    if exponent:
        first.set_priorities(np.array([1, 4]), np.array([3.0, 0.2]))
    contents = first.contents()
    second = make(20, rows=2, priority_exponent=exponent)
    second.restore(contents)
    for seed in range(3):
        for ours, theirs in zip(draw(first, seed), draw(second, seed), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        first.add(stream(3, 2, start=13 + seed))
        second.add(stream(3, 2, start=13 + seed))
    assert contents.transitions.reward.shape == (20,) and contents.transitions.action.dtype == np.uint8
    assert make(20, rows=2).contents().transitions.observation.shape == (0, 1), "only what is filled"
    with pytest.raises(ValueError, match=r"20 transitions after 13 steps do not fit .* 6 steps of 2 rows"):
        make(12, rows=2).restore(contents)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="the replay buffer is empty: need at least 1 transition"):
        make(4).draw_uniformly((2,), rng.generator(0, "test"))
    with pytest.raises(ValueError, match="the replay buffer is empty"):
        make(4, priority_exponent=0.5).draw_by_priority(2, rng.generator(0, "test"), 0.4)
    with pytest.raises(ValueError, match="buffer_size=3: need at least 4"):
        make(3, rows=4)
    with pytest.raises(ValueError, match="priority_exponent=2: need a value from 0 to 1"):
        make(4, priority_exponent=2)
    with pytest.raises(ValueError, match="transitions: got 2 rows, need 1"):
        make(4).add(stream(3, rows=2))


class BufferBesideAList(RuleBasedStateMachine):
    """A buffer, and beside it a list of all time steps that were ever added, with a list of priorities for each."""

    @initialize(slots=st.integers(1, 6), rows=st.integers(1, 3), exponent=st.sampled_from([0.0, 0.5, 1.0]))
    def start(self, slots, rows, exponent):
        self.slots, self.rows, self.exponent = slots, rows, exponent
        self.buffer = self.another()
        self.history, self.priorities, self.largest = [], [], 1.0

    def another(self):
        return make(self.slots * self.rows + self.rows - 1, self.rows, priority_exponent=self.exponent)

    @property
    def kept(self):
        """(time, row) of every transition that is held, in the order of the ring."""
        total = len(self.history)
        times = sorted(range(max(0, total - self.slots), total), key=lambda time: time % self.slots)
        return [(time, row) for time in times for row in range(self.rows)]

    @rule(steps=st.integers(1, 8))
    def add(self, steps):
        part = stream(steps, self.rows, start=len(self.history))
        self.buffer.add(part)
        self.history += zip(*part, strict=True)
        self.priorities += [[self.largest] * self.rows for _ in range(steps)]

    @precondition(lambda self: self.exponent and self.history)
    @rule(errors=st.lists(st.floats(0, 10), min_size=1, max_size=4), data=st.data())
    def set_priorities(self, errors, data):
        places = st.lists(st.integers(0, len(self.kept) - 1), min_size=len(errors), max_size=len(errors), unique=True)
        if len(errors) > len(self.kept):
            errors, chosen = errors[: len(self.kept)], list(range(len(self.kept)))
        else:
            chosen = data.draw(places)
        self.buffer.set_priorities(np.array(chosen), np.array(errors))
        for place, error in zip(chosen, errors, strict=True):
            time, row = self.kept[place]
            self.priorities[time][row] = (error + 1e-6) ** self.exponent
            self.largest = max(self.largest, self.priorities[time][row])

    @rule()
    def move_to_another_buffer(self):
        contents = self.buffer.contents()
        self.buffer = self.another()
        self.buffer.restore(contents)

    @precondition(lambda self: self.history)
    @rule(n_step=st.integers(1, 4))
    def take_all(self, n_step):
        batch = self.buffer.take(np.arange(len(self.kept)), 0.9, n_step)
        everything = Transitions(*(np.stack(field) for field in zip(*self.history, strict=True)))
        for i, (time, row) in enumerate(self.kept):
            total, bootstrap, last = followed(everything, time, row, 0.9, n_step)
            np.testing.assert_allclose([batch.reward[i], batch.bootstrap[i]], [total, bootstrap], rtol=1e-5, atol=1e-6)
            assert batch.observation[i] == everything.observation[time, row] and batch.next_observation[i] == last
            assert batch.action[i] == everything.action[time, row]

    @precondition(lambda self: self.history and not self.exponent)
    @rule(seed=st.integers(0, 99))
    def draw_uniformly(self, seed):
        index = self.buffer.draw_uniformly((20,), rng.generator(seed, "test"))
        assert all(0 <= i < len(self.kept) for i in index)

    @precondition(lambda self: self.history and self.exponent)
    @rule(seed=st.integers(0, 99), count=st.integers(1, 5))
    def draw_by_priority(self, seed, count):
        index, weight = self.buffer.draw_by_priority(count, rng.generator(seed, "test"), 0.4)
        weights = [self.priorities[time][row] for time, row in self.kept]
        shifts = rng.generator(seed, "test").random(count)
        for part, (i, shift) in enumerate(zip(index, shifts, strict=True)):
            mass, below = (part + shift) * sum(weights) / count, sum(weights[:i])
            assert below - 1e-9 <= mass <= below + weights[i] + 1e-9
        raw = [(len(weights) * weights[i] / sum(weights)) ** -0.4 for i in index]
        np.testing.assert_allclose(weight, np.array(raw) / max(raw), rtol=1e-9)

    @invariant()
    def it_holds_what_the_list_holds(self):
        assert len(self.buffer) == len(self.kept)
        contents = self.buffer.contents()
        expected = [self.priorities[time][row] for time, row in self.kept] if self.exponent else []
        np.testing.assert_allclose(contents.priority, expected, rtol=1e-12)
        seen = [self.history[time][0][row] for time, row in self.kept]
        np.testing.assert_array_equal(contents.transitions.observation, np.reshape(seen, (-1, 1)))


TestBufferBesideAList = BufferBesideAList.TestCase
TestBufferBesideAList.settings = settings(max_examples=40, stateful_step_count=15)
