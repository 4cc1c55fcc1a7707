"""The demo: the main job, whole, with encryption."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.e2e.labs import SWARMNET


@pytest.mark.kernel
@pytest.mark.timeout(400)
def test_the_demo_does_what_it_promises(tmp_path: Path) -> None:
    argv = [SWARMNET, "demo", "--kernel", "host", "--logs", str(tmp_path)]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr
    *_, verdict, figures = ran.stdout.splitlines()
    assert verdict == "demo: ok"
    seen = json.loads(figures)
    assert seen["esp_packets"] > 0
    assert seen["plaintext_packets"] == 0
    assert seen["rotation_pings_lost"] == 0
    assert (seen["injected_reached_host"], seen["injected_delivered"]) == (20, 0)
