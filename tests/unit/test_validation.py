"""Settings of a record: what nothing reads is accepted of a record, and refused of a command line."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from research.algorithms.memory.config import RL2Config
from research.conversion import ConfigError, from_mapping, to_mapping
from research.validation import recorded, refuse_unread


@dataclass(frozen=True)
class Net:
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"


@dataclass(frozen=True)
class Config:
    count: int = 3
    net: Net = Net()


def test_values_of_a_record_are_accepted_where_nothing_reads_them():
    config = Config(net=Net((8, 8), "relu"), count=5)
    with recorded({"count": 5, "net": {"hidden_sizes": [8, 8]}}):
        refuse_unread(config, ("count",), "nothing reads it")
        refuse_unread(config.net, ("hidden_sizes",), "nothing reads it", prefix="net.")
        with pytest.raises(ValueError, match=r"net\.activation='relu': nothing reads it; need 'tanh'"):
            refuse_unread(config.net, ("activation",), "nothing reads it", prefix="net.")
        with pytest.raises(ValueError, match="count=6: nothing reads it; need 3"):
            refuse_unread(Config(count=6), ("count",), "nothing reads it")
    with pytest.raises(ValueError, match="count=5: nothing reads it; need 3"):
        refuse_unread(config, ("count",), "nothing reads it")


def test_what_is_given_is_refused_as_without_a_record():
    """A setting that may change while RL² trains, but that PPO does not read."""
    before = to_mapping(RL2Config(num_epochs=2))
    message = r"max_kl=0\.02: update='ppo' does not read it; need 0\.01"
    with recorded(before), pytest.raises(ConfigError, match=message):
        from_mapping(RL2Config, before | {"max_kl": 0.02})
    old = before | {"max_kl": 0.03}
    with recorded(old):
        assert from_mapping(RL2Config, old).max_kl == 0.03
