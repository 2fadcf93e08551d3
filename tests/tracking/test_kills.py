"""Signals at random moments: what is recorded in the end is what a run that was left alone records.

docs/results/kills.txt keeps a battery of 30 moments for each script.
"""

from __future__ import annotations

import os
import subprocess
import sys

import kill_battery
import pytest

MOMENTS = int(os.environ.get("METAPOLICY_KILLS", "7"))
"""Moments for each script; each signal comes at least once with 7."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("script", kill_battery.SETTINGS)
def test_a_signal_at_any_moment_changes_nothing_in_the_end(script, tmp_path):
    command = [sys.executable, "-W", "ignore", kill_battery.__file__, script, str(MOMENTS), "0", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "MPLBACKEND": "Agg"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{script}: 0 of {MOMENTS} differ" in done.stdout
