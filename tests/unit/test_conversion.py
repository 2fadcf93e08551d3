from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.algorithms.memory.config import RL2Config
from research.conversion import ConfigError, flatten, from_mapping, make_task, to_mapping
from research.oracles.games import make_game
from research.policies.memory import MemoryConfig
from research.tasks import make_tasks
from research.validation import at_least, ordered, positive, type_hints

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True)
class Net:
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes={self.hidden_sizes}: need at least 1 unit")


@dataclass(frozen=True)
class Config:
    count: int = 3
    lr: float | tuple[float, ...] = 0.1
    flag: bool = False
    name: str = "x"
    limit: int | None = None
    pair: tuple[int, str] = (1, "a")
    extra: dict[str, float] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    net: Net = Net()
    second: Net | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count={self.count}: need at least 1")


@dataclass(frozen=True)
class Wide:
    net: Net = Net((512, 512), "relu")
    other: Net = field(default_factory=lambda: Net((7,)))
    inner: Config = Config(count=9, net=Net((8, 8)))
    perhaps: Net | None = Net((3,), "relu")


@dataclass(frozen=True)
class Needy:
    size: int


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Config()),
        ({"count": 5}, Config(count=5)),
        ({"lr": 1}, Config(lr=1.0)),
        ({"lr": [1, 0.5]}, Config(lr=(1.0, 0.5))),
        ({"limit": None}, Config(limit=None)),
        ({"limit": 4}, Config(limit=4)),
        ({"pair": [2, "b"]}, Config(pair=(2, "b"))),
        ({"extra": {"a": 1}}, Config(extra={"a": 1.0})),
        ({"free": {"a": [1, {"b": None}]}}, Config(free={"a": [1, {"b": None}]})),
        ({"tags": ["a"]}, Config(tags=["a"])),
        ({"second": None}, Config()),
        ({"second": {"activation": "relu"}}, Config(second=Net(activation="relu"))),
        ({"net": {"hidden_sizes": [8]}}, Config(net=Net((8,)))),
        ({"net": {"activation": "relu"}, "flag": True}, Config(net=Net(activation="relu"), flag=True)),
    ],
)
def test_plain_values_become_what_the_fields_say(values, expected):
    converted = from_mapping(Config, values)
    assert converted == expected
    for name in values:  # 1 == 1.0 == True, so the types count too
        assert repr(getattr(converted, name)) == repr(getattr(expected, name))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 3}, "cuont=3: no such key; did you mean count?"),
        ({"net": {"hidden_size": 3}}, "net.hidden_size=3: no such key; did you mean net.hidden_sizes?"),
        ({"hidden_sizes": [3]}, "hidden_sizes=[3]: no such key; did you mean net.hidden_sizes?"),
        ({"net": {"zzz": 3}}, "net.zzz=3: no such key; there are net.hidden_sizes, net.activation"),
        ({"count": "ten"}, "count='ten': need an integer"),
        ({"count": True}, "count=True: need an integer"),
        ({"count": 3.0}, "count=3.0: need an integer; write count=3"),
        ({"count": None}, "count=None: need an integer"),
        ({"count": 0}, "count=0: need at least 1"),
        ({"lr": "0,1"}, "lr='0,1': need a number or a list, each entry a number; write lr=0.1"),
        ({"lr": [0.1, "x"]}, "lr=[0.1, 'x']: need a number or a list, each entry a number"),
        ({"lr": True}, "lr=True: need a number or a list, each entry a number"),
        ({"lr": math.inf}, "lr=inf: need a finite number, a record cannot hold another"),
        ({"lr": [0.1, -math.inf]}, "lr[1]=-inf: need a finite number, a record cannot hold another"),
        ({"free": {"a": [{"b": math.nan}]}}, "free.a[0].b=nan: need a finite number, a record cannot hold another"),
        ({"flag": "true"}, "flag='true': need True or False; write flag=True"),
        ({"flag": 0}, "flag=0: need True or False; write flag=False"),
        ({"name": 3}, "name=3: need a text"),
        ({"limit": "x"}, "limit='x': need an integer or None"),
        ({"pair": [1]}, "pair=[1]: need a list [an integer, a text]"),
        ({"pair": [1, 2]}, "pair[1]=2: need a text"),
        ({"extra": 3}, "extra=3: need keys below it; write extra.<key>=<value>"),
        ({"extra": {"a": "x"}}, "extra.a='x': need a number"),
        ({"tags": "a"}, "tags='a': need a list, each entry a text"),
        ({"net": 3}, "net=3: need keys below it, net.<key>=...; there are net.hidden_sizes, net.activation"),
        ({"net": {"activation": "rleu"}}, "net.activation='rleu': need one of tanh, relu; did you mean relu?"),
        ({"second": {"activation": "rleu"}}, "second.activation='rleu': need one of tanh, relu; did you mean relu?"),
        ({"second": 3}, "second=3: need keys below it or None"),
        ({"net": {"activation": 7}}, "net.activation=7: need one of tanh, relu"),
        ({"net": {"hidden_sizes": [4, 0]}}, "net.hidden_sizes=(4, 0): need at least 1 unit"),
        ({"net": {"hidden_sizes": 4}}, "net.hidden_sizes=4: need a list, each entry an integer"),
        ({"net": {"hidden_sizes": [4, 2.5]}}, "net.hidden_sizes[1]=2.5: need an integer"),
    ],
)
def test_what_does_not_fit_is_refused_with_key_value_and_what_is_allowed(values, message):
    with pytest.raises(ConfigError) as refused:
        from_mapping(Config, values)
    assert str(refused.value) == message


def test_a_field_without_default_must_be_given():
    with pytest.raises(ConfigError, match="size: missing"):
        from_mapping(Needy, {})
    assert from_mapping(Needy, {"size": 2}) == Needy(2)


def test_other_errors_of_a_dataclass_are_not_hidden():
    @dataclass(frozen=True)
    class Broken:
        size: int = 1

        def __post_init__(self) -> None:
            raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        from_mapping(Broken, {})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"net": {"hidden_sizes": [1]}}, Wide(net=Net((1,), "relu"))),
        ({"other": {"activation": "relu"}}, Wide(other=Net((7,), "relu"))),
        ({"inner": {"net": {"activation": "relu"}}}, Wide(inner=Config(count=9, net=Net((8, 8), "relu")))),
        ({"perhaps": {"hidden_sizes": [2]}}, Wide(perhaps=Net((2,), "relu"))),
        ({"perhaps": None}, Wide(perhaps=None)),
    ],
)
def test_a_mapping_holds_differences_from_the_default_of_its_field(values, expected):
    assert from_mapping(Wide, values) == expected


def test_instances_and_numbers_of_numpy_stand_for_plain_values():
    converted = from_mapping(Config, {"net": Net((2,)), "count": np.int64(4), "lr": np.float32(0.5)})
    assert converted == Config(net=Net((2,)), count=4, lr=0.5)
    assert type(converted.count) is int and type(converted.lr) is float


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: MemoryConfig(hidden_size="64"), "hidden_size='64': need a number, at least 1"),
        (lambda: MemoryConfig(hidden_size=2.5), "hidden_size=2.5: need an integer, at least 1"),
        (lambda: MemoryConfig(output_scale=True), "output_scale=True: need a number, at least 0"),
        (lambda: positive({"lr": None}, "lr"), "lr=None: need a number, a value above 0"),
        (lambda: ordered({"range": (0, "1")}, "range"), r"range=\(0, '1'\): need two finite numbers"),
        (lambda: RL2Config(task_args={"num_arms": "5"}), "task_args.num_arms='5': need an integer"),
        (lambda: RL2Config(task_args={"num_arms": 5.5}), "task_args.num_arms=5.5: need an integer"),
        (lambda: make_tasks("cheetah_vel", velocity_high="3"), "task_args.velocity_high='3': need a number; write"),
        (lambda: make_game("bilinear", size=[2]), r"task_args.size=\[2\]: "),
    ],
)
def test_values_of_another_type_are_refused_by_checks_and_families(check, message):
    with pytest.raises(ValueError, match=message):
        check()


finite = st.floats(allow_nan=False, allow_infinity=False)
configs = st.builds(
    Config,
    count=st.integers(1, 100),
    lr=finite | st.lists(finite, max_size=3).map(tuple),
    flag=st.booleans(),
    name=st.text(),
    limit=st.none() | st.integers(),
    extra=st.dictionaries(st.text(), finite),
    tags=st.lists(st.text()),
    net=st.builds(Net, hidden_sizes=st.lists(st.integers(1, 9), max_size=3).map(tuple)),
)


@given(configs)
def test_a_config_comes_back_from_its_plain_values(config):
    plain = to_mapping(config)
    assert from_mapping(Config, plain) == config
    assert not any(isinstance(value, tuple) or dataclasses.is_dataclass(value) for value in flatten(plain).values())


def test_flattening_keeps_empty_mappings():
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [1]}) == {"a.b.c": 1, "a.d": {}, "e": [1]}


class Half(Fraction):
    """A subclass of a class that is no plain type."""


@dataclass(frozen=True)
class Family:
    """Fields of a task family of somebody's own."""

    file: Path = Path("a")
    sizes: Sequence[int] = (1,)
    shape: Callable[[float], float] = math.sin
    ratio: Fraction = Fraction(1)
    limit: float = 1.0
    net: Net = Net()
    exact: Decimal | None = None
    count: int = 1

    def __post_init__(self) -> None:
        at_least(self, 0, "count")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"file": Path("b")}, Family(file=Path("b"))),
        ({"file": "b"}, Family(file=Path("b"))),
        ({"sizes": [2, 3]}, Family(sizes=(2, 3))),
        ({"sizes": range(2)}, Family(sizes=range(2))),
        ({"shape": math.cos}, Family(shape=math.cos)),
        ({"ratio": Half(1, 2)}, Family(ratio=Fraction(1, 2))),
        ({"limit": math.inf}, Family(limit=math.inf)),
        ({"exact": 3}, Family(exact=3)),
    ],
)
def test_families_take_values_that_only_python_has(values, expected):
    assert make_task({"own": Family}, "own", values) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"file": 3}, "task_args.file=3: need an instance of Path"),
        ({"sizes": "12"}, "task_args.sizes='12': need a list, each entry an integer"),
        ({"sizes": [1.5]}, "task_args.sizes[0]=1.5: need an integer"),
        ({"shape": 3}, "task_args.shape=3: need an instance of Callable"),
        ({"ratio": "1/2"}, "task_args.ratio='1/2': need an instance of Fraction"),
        ({"count": True}, "task_args.count=True: need an integer"),
        ({"count": math.inf}, "task_args.count=inf: need an integer"),
        ({"count": -1}, "count=-1: need at least 0"),
    ],
)
def test_values_of_other_classes_are_refused(values, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_task({"own": Family}, "own", values)


def test_annotations_for_type_checkers_alone_leave_the_others_as_they_are():
    hints = type_hints(Family)
    assert (hints["exact"], hints["count"], hints["sizes"]) == (Any, int, Sequence[int])
    assert from_mapping(Family, {"count": 4, "net": {"activation": "relu"}}) == Family(
        net=Net((64, 64), "relu"), count=4
    )
