from __future__ import annotations

import math
import os
import pickle
import struct
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from research import checkpoint
from research.checkpoint import Checkpoint, CheckpointError, Checkpoints
from research.plain_state import from_plain, to_plain


class Inner(NamedTuple):
    weights: dict[str, torch.Tensor]
    history: tuple[float, ...]


class State(NamedTuple):
    iteration: int
    inner: Inner
    items: list
    name: str
    nothing: None = None


def make_state(iteration=3, size=4, dtype=torch.float32, fill=1.5) -> State:
    weights = {"a.b": torch.full((size, 2), fill, dtype=dtype), "c": torch.arange(3)}
    return State(iteration, Inner(weights, (0.5, math.inf)), [True, torch.tensor(2.0), {"k": 1}], "x")


def same(left, right) -> bool:
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def saved(directory, state=None, score=None) -> Checkpoints:
    checkpoints = Checkpoints(directory, "toy", {"lr": 0.1})
    checkpoints.save(state or make_state(), score)
    return checkpoints


def test_a_state_comes_back_as_it_was(tmp_path):
    state = make_state()
    loaded = checkpoint.load(saved(tmp_path, state, 2.5).latest)
    assert same(loaded.restore(make_state(0, fill=0.0)), state)
    assert (loaded.algorithm, loaded.config, loaded.iteration, loaded.score) == ("toy", {"lr": 0.1}, 3, 2.5)


def test_strides_and_requires_grad_come_back():
    tensor = torch.arange(6.0).reshape(2, 3).T
    restored = from_plain(to_plain(tensor), torch.zeros(3, 2, requires_grad=True))
    assert restored.stride() == tensor.stride()
    assert restored.requires_grad


def test_a_saved_state_does_not_change_with_the_live_one():
    live = make_state()
    plain = to_plain(live)
    live.inner.weights["c"].add_(1)
    assert plain["inner"]["weights"]["c"].tolist() == [0, 1, 2]


def test_the_suffix_may_be_left_out(tmp_path):
    saved(tmp_path)
    assert checkpoint.load(tmp_path / "latest").path == tmp_path / "latest.pt"
    assert checkpoint.load(str(tmp_path / "latest.pt")).iteration == 3


def test_the_best_is_the_one_with_the_highest_score(tmp_path):
    checkpoints = Checkpoints(tmp_path, "toy", {})
    for iteration, score in [(1, None), (2, -5.0), (3, -1.0), (4, -2.0), (5, math.nan), (6, None)]:
        checkpoints.save(make_state(iteration), score)
    assert checkpoint.load(checkpoints.best).iteration == 3
    assert checkpoint.load(checkpoints.latest).iteration == 6
    again = Checkpoints(tmp_path, "toy", {}, checkpoint.load(checkpoints.latest))  # as a resumed run
    again.save(make_state(7), -1.5)
    assert checkpoint.load(again.best).iteration == 3
    again.save(make_state(8), -0.5)
    assert checkpoint.load(again.best).iteration == 8


def test_a_best_of_iterations_that_are_trained_again_is_written_again(tmp_path):
    """The first process was killed between the two files; what it noted of its record is of rows that are gone."""
    first = Checkpoints(tmp_path, "toy", {}, record=lambda: {"rows": 1})
    for iteration, score in [(2, -5.0), (3, None)]:
        first.save(make_state(iteration), score)
    latest = first.latest.read_bytes()
    first.save(make_state(4), -1.0)
    first.latest.write_bytes(latest)
    again = Checkpoints(tmp_path, "toy", {}, checkpoint.load(first.latest), record=lambda: {"rows": 2})
    assert again.best_score == -5.0
    again.save(make_state(4), -1.0)
    assert checkpoint.load(again.best).record == {"rows": 2}
    over = Checkpoints(tmp_path, "toy", {})  # from the beginning
    over.save(make_state(2), -5.0)
    assert checkpoint.load(over.best).iteration == 2


def test_a_process_killed_between_the_two_files_has_not_lost_the_best(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path)
    written = []

    def killed_after_one(path, write):
        if written:
            raise KeyboardInterrupt
        written.append(path)

    monkeypatch.setattr(checkpoint, "atomic_write", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(make_state(4), 1.0)
    assert written == [checkpoints.best]


@pytest.mark.parametrize("value", [np.float32(1.0), np.arange(3), {1, 2}, object()], ids=lambda v: type(v).__name__)
def test_what_cannot_be_loaded_is_not_saved(value):
    with pytest.raises(TypeError, match=r"state\.items\[1\]: a .* cannot be saved"):
        to_plain(State(0, Inner({}, ()), [1, value], "x"))


@pytest.mark.parametrize("kept", [0, 1, 40, 0.5, 0.99, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = saved(tmp_path).latest
    size = path.stat().st_size
    os.truncate(path, {0.5: size // 2, 0.99: int(size * 0.99), -1: size - 1}.get(kept, kept))
    with pytest.raises(CheckpointError, match=r"latest\.pt .*(damaged|no checkpoint).*Use"):
        checkpoint.load(path)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "state": Payload()}, "torch.pt")
    with open("pickle.pt", "wb") as file:
        pickle.dump(Payload(), file)
    for name in ("torch", "pickle"):
        with pytest.raises(CheckpointError, match="no checkpoint of this project"):
            checkpoint.load(name)
    assert not os.path.exists("executed")


@pytest.mark.parametrize(
    ("content", "found"),
    [({"model": torch.zeros(1), "epoch": 3}, "entries epoch, model"), (torch.zeros(2), "a Tensor"), ({}, r"\(none\)")],
)
def test_a_foreign_file_is_refused(tmp_path, content, found):
    torch.save(content, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match=rf"foreign\.pt is no checkpoint of this project: found .*{found}"):
        checkpoint.load(tmp_path / "foreign.pt")


def test_a_file_that_torch_wrote_is_read(tmp_path):
    """As one that a script of the user made from another checkpoint."""
    content = torch.load(saved(tmp_path, score=0.5).latest, weights_only=True)
    torch.save({**content, "iteration": 9}, tmp_path / "copy.pt")
    loaded = checkpoint.load(tmp_path / "copy")
    assert loaded.iteration == 9 and same(loaded.restore(make_state()), make_state())
    del content["best_score"]  # as older versions wrote it
    torch.save(content, tmp_path / "copy.pt")
    assert checkpoint.load(tmp_path / "copy").best_score is None


@pytest.mark.parametrize(
    ("key", "value"), [("iteration", "3"), ("config", []), ("algorithm", None), ("score", 1), ("state", [])]
)
def test_an_entry_of_another_type_is_refused(tmp_path, key, value):
    content = torch.load(saved(tmp_path).latest, weights_only=True)
    torch.save({**content, key: value}, tmp_path / "copy.pt")
    with pytest.raises(CheckpointError, match=rf"copy\.pt is no checkpoint of this project: its entry {key} is"):
        checkpoint.load(tmp_path / "copy")


def test_the_latest_knows_the_score_of_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, "toy", {})
    assert checkpoints.best_score is None
    for score, best in [(None, None), (-5.0, -5.0), (-1.0, -1.0), (-2.0, -1.0), (None, -1.0)]:
        checkpoints.save(make_state(), score)
        assert checkpoint.load(checkpoints.latest).best_score == best


def test_a_full_disk_is_an_error_of_the_system(tmp_path, monkeypatch):
    """torch reports one as a RuntimeError about positions."""
    checkpoints = saved(tmp_path)
    before = checkpoints.latest.read_bytes()

    class Full:
        def __init__(self, file):
            self.file, self.size = file, 0

        def write(self, content):
            self.size += len(content)
            if self.size > 1000:
                raise OSError(28, "No space left on device")
            return self.file.write(content)

    write = checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda content, file: write(content, Full(file)))
    with pytest.raises(OSError, match=r"No space left on device: .*/latest\.pt'"):
        checkpoints.save(make_state())
    assert checkpoints.latest.read_bytes() == before


def test_a_text_file_is_refused(tmp_path):
    (tmp_path / "notes.pt").write_text("not a checkpoint\n" * 100)
    with pytest.raises(CheckpointError, match=r"notes\.pt"):
        checkpoint.load(tmp_path / "notes")


def test_another_format_is_refused(tmp_path):
    content = dict.fromkeys(("algorithm", "config", "iteration", "score", "state")) | {"format": 7}
    torch.save(content, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match=r"format 7, this version reads 1"):
        checkpoint.load(tmp_path / "new.pt")


def test_a_missing_file_is_told_apart(tmp_path):
    saved(tmp_path)
    with pytest.raises(CheckpointError, match=r"no such checkpoint; in .* there is latest\.pt"):
        checkpoint.load(tmp_path / "best")
    with pytest.raises(CheckpointError, match="no directory"):
        checkpoint.load(tmp_path / "nowhere" / "best")


def test_another_algorithm_is_refused(tmp_path):
    loaded = checkpoint.load(saved(tmp_path).latest)
    loaded.require_algorithm("toy")
    with pytest.raises(CheckpointError, match=r"latest\.pt holds a state of 'toy', not of 'other'"):
        loaded.require_algorithm("other")


LIKE = make_state()


@pytest.mark.parametrize(
    ("like", "reason"),
    [
        (make_state(size=5), r"state\.inner\.weights\['a\.b'\] is a float32 tensor of shape \[4, 2\].*\[5, 2\]"),
        (make_state(dtype=torch.float64), r"a\.b.*float32 tensor.*needed is a float64 tensor"),
        (LIKE._replace(inner=Inner({"a.b": torch.zeros(4, 2)}, (0.5, 1.0))), r"weights has c too many"),
        (LIKE._replace(inner=Inner({**LIKE.inner.weights, "d": torch.zeros(1)}, (0.5, 1.0))), r"weights lacks d"),
        (LIKE._replace(inner=Inner(LIKE.inner.weights, (0.5,))), r"history has 2 entries, needed are 1"),
        (LIKE._replace(name=1.0), r"state\.name is a str, needed is a value of type float"),
        (LIKE._replace(nothing=torch.zeros(1)), r"state\.nothing is a NoneType, needed is a float32 tensor"),
        (LIKE._replace(items={"k": 1}), r"state\.items is 3 entries, needed are entries k"),
        (LIKE.inner, r"state lacks history, weights and has"),
    ],
)
def test_a_state_of_other_settings_is_refused(tmp_path, like, reason):
    loaded = checkpoint.load(saved(tmp_path).latest)
    with pytest.raises(CheckpointError, match=rf"latest\.pt does not fit these settings: .*{reason}.*Use the settings"):
        loaded.restore(like)


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    (tmp_path / ".latest.pt.00.partial").write_bytes(b"half")
    saved(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["latest.pt"]


def test_loading_leaves_the_file_as_it_was(tmp_path):
    path = saved(tmp_path).latest
    before = path.read_bytes()
    loaded = checkpoint.load(path)
    assert isinstance(loaded, Checkpoint)
    loaded.restore(make_state()).inner.weights["c"].add_(1)
    assert path.read_bytes() == before


class Pair(NamedTuple):
    first: object
    second: object


class Whole(NamedTuple):
    iteration: int
    tree: object


DTYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.bool,
)


@st.composite
def tensors(draw) -> torch.Tensor:
    """Random bits after a −0.0 or the least integer, in row-major order or in column-major order."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.lists(st.sampled_from([3, 2, 1, 0]), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    content = bytearray(np.random.default_rng(draw(st.integers(0, 99))).bytes(size))
    content[: dtype.itemsize] = (bytes(dtype.itemsize - 1) + b"\x80")[:size]
    if dtype == torch.bool:
        content = bytearray(byte % 2 for byte in content)
    flat = torch.frombuffer(content, dtype=dtype) if size else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(shape).clone()
    if len(shape) == 2 and draw(st.booleans()):
        tensor = tensor.T
    return tensor.requires_grad_(dtype.is_floating_point and draw(st.booleans()))


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))


def containers(entries):
    return st.one_of(
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers(0, 9)), entries, max_size=3),
        st.lists(entries, max_size=3),
        st.lists(entries, max_size=3).map(tuple),
        st.builds(Pair, entries, entries),
    )


TREES = st.recursive(st.one_of(tensors(), SCALARS), containers, max_leaves=12)


def bits(leaf):
    """Of a leaf: its type, and what distinguishes one NaN or zero from another."""
    if isinstance(leaf, torch.Tensor):
        raw = leaf.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return leaf.dtype, tuple(leaf.shape), leaf.requires_grad, raw
    return type(leaf), struct.pack("d", leaf) if isinstance(leaf, float) else leaf


def mapped(function, tree):
    """The tree with `function` applied to its leaves."""
    if isinstance(tree, dict):
        return {key: mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, Pair):
        return Pair(*(mapped(function, value) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(mapped(function, value) for value in tree)
    return function(tree)


def as_before_training(leaf):
    """A leaf of the same kind with another value; an axis of rows that is to grow has none yet."""
    if isinstance(leaf, torch.Tensor):
        shape = (0, *leaf.shape[1:]) if leaf.shape[:1] == (3,) else leaf.shape
        return torch.zeros(shape, dtype=leaf.dtype, requires_grad=leaf.requires_grad)
    return None if leaf is None else type(leaf)()


@pytest.mark.thorough
@given(TREES)
@settings(max_examples=60)
def test_every_state_comes_back_bit_for_bit(tree):
    with tempfile.TemporaryDirectory() as directory:
        checkpoints = saved(Path(directory), Whole(3, tree))
        restored = checkpoint.load(checkpoints.latest).restore(Whole(0, mapped(as_before_training, tree)))
    assert restored.iteration == 3
    assert repr(mapped(bits, restored.tree)) == repr(mapped(bits, tree))
