"""Population-based training: selection, exploration, and searches that end the same however they were interrupted."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from research import rng
from research.population import study
from research.population.driver import Population, Problem
from research.population.exploration import Setting, explored, first_settings
from research.population.generations import decided
from research.population.lineage import ancestry, copies, schedule
from research.population.selection import donors
from research.population.settings import ExploreConfig, PopulationConfig
from research.types import StepResult

NAN = math.nan


def picked(values: list[float], *arguments: Any) -> list[int]:
    """The donor of each member, in order."""
    return list(donors(dict(enumerate(values)), *arguments).values())


class TestSelection:
    def test_truncation_copies_the_best_quarter_into_the_worst(self):
        values = [3.0, 8.0, 1.0, 7.0, 4.0, 2.0, 5.0, 6.0]
        for generation in range(20):
            chosen = picked(values, "truncation", 0.25, 0, generation)
            assert {chosen[2], chosen[5]} <= {1, 3}
            assert [chosen[member] for member in (0, 1, 3, 4, 6, 7)] == [0, 1, 3, 4, 6, 7]

    def test_both_of_the_best_are_drawn_and_draws_differ_by_seed_generation_and_member(self):
        values = [3.0, 8.0, 1.0, 7.0, 4.0, 2.0, 5.0, 6.0]
        drawn = {key: picked(values, "truncation", 0.25, *key)[2] for key in itertools.product(range(6), range(6))}
        assert set(drawn.values()) == {1, 3}
        for seed in range(6):
            assert len({drawn[seed, generation] for generation in range(6)}) == 2
        assert any(picked(values, "truncation", 0.25, 0, one)[2] != picked(values, "truncation", 0.25, 0, one)[5]
                   for one in range(6))  # fmt: skip

    def test_tournament_copies_only_better_members(self):
        values = [1.0, 2.0, 3.0, 4.0]
        for generation in range(20):
            for member, donor in enumerate(picked(values, "tournament", 0.25, 1, generation)):
                assert donor == member or values[donor] > values[member]
        assert {picked(values, "tournament", 0.25, 1, generation)[0] for generation in range(30)} == {1, 2, 3}

    @pytest.mark.parametrize("method", ["truncation", "tournament"])
    def test_members_without_a_value_lose(self, method):
        chosen = picked([NAN, 2.0, math.inf, 1.0], method, 0.25, 0, 0)
        assert chosen[0] in (1, 3)
        assert chosen[2] in (1, 3)
        assert chosen[1] == 1
        assert picked([NAN, NAN], method, 0.25, 0, 0) == [0, 1]

    def test_equal_members_keep_their_states(self):
        assert picked([1.0] * 8, "truncation", 0.25, 0, 0) == list(range(8))


def number(low: float, high: float) -> Setting:
    return Setting(
        lambda generator: float(generator.uniform(low, high)), lambda value: min(max(value, low), high), True
    )


def whole(low: int, high: int, grows: bool = False) -> Setting:
    return Setting(
        lambda generator: int(generator.integers(low, high + 1)), lambda value: min(max(value, low), high), True, grows
    )


def widths(low: int, high: int, layers: int, deepens: bool = True) -> Setting:
    def clip(value: list[int]) -> list[int]:
        return [min(max(width, low), high) for width in value[:layers]]

    return Setting(lambda generator: [low], clip, grows=True, deepens=deepens)


SPACE = {
    "rate": number(1e-3, 1.0),
    "steps": whole(1, 20),
    "kind": Setting(lambda generator: "abc"[int(generator.integers(3))], lambda value: value),
    "units": whole(2, 9, grows=True),
    "sizes": widths(4, 20, 3),
}


class TestExploration:
    def changed(self, settings: dict[str, Any], generation: int = 0, **config: Any) -> dict[str, Any]:
        return explored(settings, SPACE, ExploreConfig(**config), 0, generation, 0)

    def many(self, key: str, value: Any, **config: Any) -> set[Any]:
        settings = {"rate": 0.1, "steps": 5, "kind": "a", "units": 4, "sizes": [8, 8], key: value}
        found = (self.changed(settings, generation, **config)[key] for generation in range(60))
        return {json.dumps(one) for one in found}

    def test_numbers_go_up_or_down_by_the_factor(self):
        assert self.many("rate", 0.1, resample=0.0, factor=1.25) == {"0.125", "0.08"}
        assert self.many("rate", 1.0, resample=0.0, factor=1.25) == {"1.0", "0.8"}
        assert self.many("steps", 10, resample=0.0) == {"12", "8"}
        assert self.many("steps", 2, resample=0.0) == {"3", "1"}
        assert self.many("steps", 1, resample=0.0) == {"2", "1"}

    def test_other_values_stay_or_are_drawn_again(self):
        assert self.many("kind", "a", resample=0.0) == {'"a"'}
        assert self.many("kind", "a", resample=1.0) == {'"a"', '"b"', '"c"'}
        assert len(self.many("rate", 0.1, resample=1.0)) == 60

    def test_sizes_grow_within_the_space(self):
        assert self.many("units", 4, grow=0.0) == {"4"}
        assert self.many("units", 4, grow=1.0) == {"6"}
        assert self.many("units", 4) == {"4", "6"}
        assert self.many("units", 9, grow=1.0) == {"9"}
        assert self.many("sizes", [8, 16], grow=1.0, deepen=0.0) == {"[12, 16]", "[8, 20]"}
        assert self.many("sizes", [8, 16], grow=1.0, deepen=1.0) == {"[8, 8, 16]", "[8, 16, 16]"}
        assert self.many("sizes", [8, 8, 20], grow=1.0, deepen=1.0) == {"[12, 8, 20]", "[8, 12, 20]", "[8, 8, 20]"}
        assert self.many("sizes", [], grow=1.0) == {"[]"}

    def test_lists_that_cannot_get_layers_get_units(self):
        space, config = {"sizes": widths(4, 20, 3, deepens=False)}, ExploreConfig(grow=1.0, deepen=1.0)
        found = [explored({"sizes": [8, 16]}, space, config, 0, generation, 0)["sizes"] for generation in range(60)]
        assert {json.dumps(one) for one in found} == {"[12, 16]", "[8, 20]"}

    def test_each_setting_has_a_stream_of_its_own(self):
        settings = first_settings(SPACE, 0, 0)
        alone = explored({"rate": settings["rate"]}, {"rate": SPACE["rate"]}, ExploreConfig(), 0, 3, 2)
        assert explored(settings, SPACE, ExploreConfig(), 0, 3, 2)["rate"] == alone["rate"]
        assert first_settings(SPACE, 0, 1) != settings
        assert first_settings(SPACE, 1, 0) != settings

    @pytest.mark.parametrize(
        ("key", "value", "allowed"), [("factor", 1.0, "above 1"), ("resample", 1.5, "from 0 to 1")]
    )
    def test_refuses(self, key, value, allowed):
        with pytest.raises(ValueError, match=f"{key}={value}: need a value {allowed}"):
            ExploreConfig(**{key: value})


# An algorithm of two numbers: it goes downhill on a bowl at a rate, and its draws depend on its seed.


@dataclasses.dataclass(frozen=True)
class BowlConfig:
    seed: int = 0
    rate: float = 0.1
    checkpoint_interval: int = 2
    pause: float = 0.0


class BowlState(NamedTuple):
    iteration: int
    place: torch.Tensor
    seen: torch.Tensor


class Bowl:
    Config = BowlConfig

    def __init__(self, config: BowlConfig):
        self.config = config

    def init(self) -> BowlState:
        return BowlState(0, torch.full((2,), 3.0, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))

    def step(self, state: BowlState) -> StepResult:
        time.sleep(self.config.pause)
        noise = torch.from_numpy(rng.generator(self.config.seed, "noise", state.iteration).normal(size=2))
        place = state.place - self.config.rate * (state.place + 0.3 * noise)
        return StepResult(BowlState(state.iteration + 1, place, state.seen + noise.sum()), {})

    def adopt(self, state: BowlState, before: BowlConfig, own: BowlState) -> BowlState:
        return BowlState(own.iteration, state.place, own.seen)


def bowl_problem(pause: float = 0.0) -> Problem:
    return Problem(
        "bowl",
        Bowl,
        lambda member, settings: BowlConfig(100 + member, pause=pause, **settings),
        lambda algorithm, state: -float(state.place.square().sum()),
        {"rate": number(1e-3, 1.0)},
        20,
    )


CONFIG = PopulationConfig(members=8, interval=4)


def outcome(folder: Path, pause: float = 0.0) -> tuple[Any, ...]:
    """Everything that must not depend on how a search was carried out."""
    population = Population(folder, bowl_problem(pause), CONFIG, seed=5)
    progress = population.progress()
    ends = [torch.load(folder / "members" / str(member) / "latest.pt")["state"] for member in range(8)]
    states = [(end["iteration"], end["place"].tolist(), end["seen"].tolist()) for end in ends]
    return progress.past, progress.values, progress.settings, states


def work(folder: Path, worker: str, pause: float) -> None:
    Population(folder, bowl_problem(pause), CONFIG, seed=5).run(worker, seconds=0.005)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Any, ...]:
    folder = tmp_path_factory.mktemp("undisturbed")
    work(folder, "w", 0.0)
    return outcome(folder)


class TestDriver:
    def test_finds_better_settings_and_says_who_copied_whom(self, undisturbed):
        past, values, _, _ = undisturbed
        assert [entry["generation"] for entry in past] == [0, 1, 2, 3]
        copied = [one for entry in past for one in entry["decisions"] if one["donor"] != one["member"]]
        assert 2 <= len(copied) <= 8
        for entry in past:
            for one in entry["decisions"]:
                assert one["donor"] == one["member"] or entry["values"][one["donor"]] > entry["values"][one["member"]]
                assert bool(one["changed"]) == (one["donor"] != one["member"])
        assert max(values.values()) > max(past[0]["values"])

    def test_results_do_not_depend_on_the_number_or_the_turns_of_workers(self, tmp_path, undisturbed):
        """Two workers of one process, whose slices overlap in every way that the draws choose."""
        population = Population(tmp_path, bowl_problem(), CONFIG, seed=5)
        population._is_alive = lambda worker: True  # type: ignore[method-assign]
        held: dict[str, study.Slice] = {}
        draws = rng.generator(0, "turns")
        while not population.progress().is_done:
            worker = f"w{draws.integers(3)}"
            if worker in held:
                slice_ = held.pop(worker)
                population.tell(worker, slice_, population.train(slice_))
            elif (slice_ := population.take(worker)) is not None:
                held[worker] = slice_
        assert outcome(tmp_path) == undisturbed

    @pytest.mark.thorough
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_killed_at_random_moments_it_ends_the_same(self, tmp_path, undisturbed):
        """Two processes; each of five times one is killed and another one takes its place."""
        context, draws = multiprocessing.get_context("fork"), rng.generator(1, "kills")
        names = (f"w{number}" for number in itertools.count())

        def start() -> Any:
            process = context.Process(target=work, args=(tmp_path, next(names), 0.03))
            process.start()
            return process

        workers, kills = [start(), start()], 0
        while kills < 5:
            time.sleep(float(draws.uniform(0.02, 0.25)))
            victim = workers.pop(int(draws.integers(2)))
            kills += victim.is_alive()
            os.kill(victim.pid, signal.SIGKILL)
            victim.join()
            assert not Population(tmp_path, bowl_problem(), CONFIG, seed=5).progress().is_done, "killed too late"
            workers.append(start())
        for process in workers:
            process.join(60)
        assert outcome(tmp_path) == undisturbed

    def test_a_slice_of_a_dead_worker_is_claimed_again_and_what_it_says_late_is_ignored(self, tmp_path):
        population = Population(tmp_path, bowl_problem(), CONFIG, seed=5)
        lost = population.take("dead")
        again = population.take("alive")
        assert (lost.generation, lost.member) == (again.generation, again.member) == (0, 0)
        population.tell("dead", lost, 1.0)
        assert population.progress().values == {}
        population.tell("alive", again, 2.0)
        assert population.progress().values == {0: 2.0}

    def test_failed_members_leave_the_population(self):
        progress = study.progress_of([{"kind": "started", "settings": [{"rate": 0.1}] * 3}], CONFIG, 20)
        for member, failed in ((0, True), (1, False), (2, False)):
            slice_ = study.next_slice(progress, "w", lambda worker: True)
            assert slice_.member == member
            for entry in (study.claimed(slice_, "w"), study.finished(slice_, "w", NAN if failed else member, failed)):
                study._READERS[entry["kind"]](progress, entry)
        entry = decided(progress, {"rate": SPACE["rate"]}, 0)
        assert [one["member"] for one in entry["decisions"]] == [1, 2]
        assert [one["donor"] for one in entry["decisions"]] == [2, 2]
        json.dumps(entry, allow_nan=False)
        study._read_decided(progress, entry)
        assert progress.living == [1, 2]
        assert study.next_slice(progress, "w", lambda worker: True).member == 1


class TestLineage:
    def test_tables_and_picture(self, tmp_path):
        from analysis.data.populations import load_population
        from analysis.plots.lineage import plot_lineage

        work(tmp_path, "w", 0.0)
        past, values, settings, _ = outcome(tmp_path)
        tables = load_population(tmp_path / "population.jsonl")
        assert tables.best == max(values, key=values.get)
        assert tables.ancestry == ancestry(past, tables.best)
        assert len(tables.members) == 40
        assert len(tables.copies) == 32
        last = tables.members[tables.members.generation == 4].set_index("member")
        assert last["value"].to_dict() == values
        assert last["rate"].tolist() == [one["rate"] for one in settings]
        assert tables.schedule["rate"].iloc[-1] == settings[tables.best]["rate"]
        (axes,) = plot_lineage(tables.members, tables.copies, tables.ancestry).axes
        thick = next(line for line in axes.lines if line.get_linewidth() == 1.8)
        assert thick.get_ydata()[-1] == values[tables.best]
        assert list(thick.get_xdata()) == [4, 8, 12, 16, 20]
        assert len(axes.lines) == 32 + 2
        (tmp_path / "other.jsonl").write_text("")
        with pytest.raises(ValueError, match="is not the journal of a population"):
            load_population(tmp_path / "other.jsonl")

    def test_follows_the_copies_backwards(self, undisturbed):
        past, values, settings, _ = undisturbed
        best = max(values, key=values.get)
        line = ancestry(past, best)
        assert line[-1] == best
        assert len(line) == 5
        for generation, (before, after) in enumerate(itertools.pairwise(line)):
            decision = next(one for one in past[generation]["decisions"] if one["member"] == after)
            assert decision["donor"] == before
        started = [first_settings(bowl_problem().space, 5, member) for member in range(8)]
        rows = schedule(started, past, best, 4)
        assert [row["iteration"] for row in rows] == [0, 4, 8, 12, 16]
        assert rows[0]["rate"] == started[line[0]]["rate"]
        assert rows[-1]["rate"] == settings[best]["rate"]

    def test_has_a_row_for_each_member_and_generation(self, undisturbed):
        rows = copies(undisturbed[0], 4)
        assert len(rows) == 32
        copied = [row for row in rows if row["donor"] != row["member"]]
        assert all({"rate before", "rate after"} <= row.keys() for row in copied)
        assert all("is worse than" in row["why"] for row in copied)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("members", 1, "at least 2"),
        ("interval", 0, "at least 1"),
        ("share", 0.6, "at most 0.5"),
        ("exploit", "best", "one of"),
    ],
)
def test_refuses_wrong_settings(key, value, allowed):
    with pytest.raises(ValueError, match=f"{key}={value!r}: need.*{allowed}"):
        PopulationConfig(**{key: value})
