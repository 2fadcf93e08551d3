from __future__ import annotations

import math

import pytest
import torch

from analysis.plots import plot_estimates
from analysis.studies import estimators
from analysis.studies.estimators import COMMAND, Estimate, main, sampled_table, summarise
from analysis.studies.pages import END, mark


def draws(count: int, offset: float, seed: int = 0) -> torch.Tensor:
    """Normal errors of deviation 0.5 and 1 around (3 + offset, 4): the truth is (3, 4), its norm 5."""
    noise = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.tensor([3.0 + offset, 4.0]) + noise * torch.tensor([0.5, 1.0])


TRUTH = torch.tensor([3.0, 4.0], dtype=torch.float64)


def test_summarise_finds_bias_error_and_cosine():
    found = summarise(draws(200_000, 0.5), TRUTH)
    assert found.bias[0] == pytest.approx(0.1, rel=0.05)
    assert found.rmse[0] == pytest.approx(math.sqrt(0.25 + 0.25 + 1.0) / 5, rel=0.01)
    assert 0.95 < found.cosine[0] < 1
    for value, low, high in found:
        assert low < value < high and high - low < 0.05


def test_the_noise_of_the_mean_does_not_count_as_bias():
    few = [summarise(draws(30, 0.0, seed), TRUTH).bias for seed in range(200)]
    held = sum(low == 0.0 for _, low, _ in few) / len(few)
    assert held > 0.9
    assert sum(value == 0.0 for value, _, _ in few) > 60  # about half of the estimates of 0 fall below it


def test_intervals_hold_a_true_bias_as_often_as_they_say():
    found = [summarise(draws(60, 0.5, seed), TRUTH).bias for seed in range(300)]
    assert 0.9 < sum(low <= 0.1 <= high for _, low, high in found) / len(found) < 0.99


def test_a_table_has_a_row_for_each_size():
    estimate = Estimate((0.1, 0.05, 0.2), (1.0, 0.9, 1.1), (0.5, 0.4, 0.6))
    table = sampled_table({"maml": [estimate, estimate], "dice": [estimate, estimate]}, (1, 2), "rmse")
    assert table.splitlines()[0] == "| episodes | maml | dice |"
    assert table.splitlines()[3] == "| 2 | 1.000 [0.900, 1.100] | 1.000 [0.900, 1.100] |"


@pytest.mark.thorough
def test_the_picture_draws_every_estimator_and_upper_ends_where_no_bias_is_told(tmp_path):
    told, untold = (Estimate((0.1, low, 0.2), (1.0, 0.9, 1.1), (0.5, 0.4, 0.6)) for low in (0.05, 0.0))
    for name in ("one.png", "two.svg"):
        plot_estimates({"left": {"maml": [told, untold], "dice": [untold] * 2}}, (1, 2), {"maml": 0.1}, tmp_path / name)
    assert (tmp_path / "one.png").stat().st_size > 10_000
    assert "</svg>" in (tmp_path / "two.svg").read_text()


@pytest.mark.thorough
def test_the_command_writes_the_same_tables_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(estimators, "EPISODES", (1, 2))
    page, picture = tmp_path / "page.md", tmp_path / "picture.png"
    page.write_text(f"{mark(COMMAND)}\n{END}\n")
    command = [f"--page={page}", f"--picture={picture}", "--batches=20"]
    assert main(command) == 0
    first = page.read_text()
    assert first.count("| episodes |") == 5 and "lvc" in first and picture.exists()
    assert main(command) == 0 and page.read_text() == first
    capsys.readouterr()


def test_bad_use_of_the_command_is_an_error_with_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(estimators, "EPISODES", (1,))
    assert main(["--batches=1"]) == 2
    assert "--batches=1: need at least 2" in capsys.readouterr().err
    missing = [f"--page={tmp_path / 'none.md'}", f"--picture={tmp_path / 'a.png'}", "--batches=2"]
    assert main(missing) == 2
    assert "none.md" in capsys.readouterr().err
