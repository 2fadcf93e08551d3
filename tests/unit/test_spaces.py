"""The space of one-hot observations, and that it stays itself in Gymnasium's hands."""

from __future__ import annotations

import pickle

import gymnasium
import numpy as np
import pytest

from research.spaces import OneHot

BOX = gymnasium.spaces.Box(0.0, 1.0, (3,), np.float32)


@pytest.mark.parametrize(
    ("vector", "is_in"),
    [([0, 1, 0], True), ([0, 0, 0], False), ([1, 1, 0], False), ([0, 0.5, 0], False), ([0, 1], False)],
)
def test_a_vector_with_a_single_1_is_in(vector, is_in):
    assert (np.array(vector, np.float32) in OneHot(3)) == is_in


def test_samples_are_all_vectors_of_the_space():
    space = OneHot(3, seed=0)
    drawn = np.stack([space.sample() for _ in range(50)])
    assert all(vector in space for vector in drawn) and drawn.dtype == np.float32
    assert (drawn.sum(0) > 0).all()


def test_it_equals_no_box_and_survives_copies():
    assert OneHot(3) == OneHot(3) != OneHot(4)
    assert OneHot(3) != BOX
    assert not BOX == OneHot(3)  # noqa: SIM201, SIM300 - the order is what is tested
    assert pickle.loads(pickle.dumps(OneHot(3))) == OneHot(3)
    batch = gymnasium.vector.utils.batch_space(OneHot(3), 2)
    assert batch.shape == (2, 3) and np.zeros((2, 3), np.float32) in batch
