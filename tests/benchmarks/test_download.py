"""The benchmark of the downloader, as far as it goes without a server."""

from __future__ import annotations

import json

import pytest

from benchmarks import download


def test_without_nginx_nothing_is_measured_and_other_benchmarks_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert download.main(["--quick"]) == 0
    reason, last = capsys.readouterr().out.splitlines()
    assert reason.startswith("not measured: nginx is not installed")
    assert "apt-get install nginx" in reason
    assert json.loads(last)["met"] == dict.fromkeys(download.GOALS)
