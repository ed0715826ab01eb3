"""The study in a crowd: what few probes lose."""

from __future__ import annotations

import pytest

from demo import study_crowd
from demo.study_crowd import Crowd, lost_in_crowd


def test_enough_probes_lose_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    crowd = lost_in_crowd((1, 16), drawings=60, icons=200, share=0.02)
    assert (crowd.pictures, crowd.copies) == (260, 3 * 17)
    assert crowd.by_hash <= crowd.near <= crowd.copies
    complete, one, many = crowd.by_pixels
    assert one <= many <= complete <= crowd.near
    assert many >= 0.98 * complete > 0
    assert crowd.by_either[2] >= 0.98 * crowd.by_either[0]
    monkeypatch.setattr(study_crowd, "lost_in_crowd", lambda probes: Crowd(9, 8, 7, 4, [6] * 7, [6] + [3] * 6))
    assert study_crowd.main() == 0
    assert "16 probes  6  3  (50.00% of the complete search)" in capsys.readouterr().out
