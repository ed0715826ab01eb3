"""Telling somebody that a scheduled job failed: by a command, by a webhook, or by both."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator


class NotifyConfig(BaseModel):
    """Whom to tell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: list[str] = Field([], description="program and arguments; it gets the report as JSON on stdin")
    webhook: str | None = Field(None, description="http or https address; it gets the report as JSON in a POST")
    seconds: float = Field(30.0, gt=0, description="how long either may take")

    @field_validator("webhook")
    @classmethod
    def _web(cls, url: str | None) -> str | None:
        if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
            raise ValueError("an http or https address")
        return url


def notify(config: NotifyConfig, report: dict[str, Any]) -> list[str]:
    """Send a report; what went wrong with that, in a line each, without the address, which may be a secret."""
    body, errors = json.dumps(report, sort_keys=True).encode(), []
    if config.command:
        try:
            done = subprocess.run(
                config.command, input=body, capture_output=True, timeout=config.seconds, check=False
            )
            if done.returncode:
                errors.append(f"notify.command ended with {done.returncode}: {_last(done.stderr)}")
        except (OSError, subprocess.TimeoutExpired) as error:
            errors.append(f"notify.command: {error}")
    if config.webhook:
        request = urllib.request.Request(config.webhook, body, {"Content-Type": "application/json"}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=config.seconds):
                pass
        except urllib.error.HTTPError as error:
            errors.append(f"notify.webhook answered {error.code}")
            error.close()
        except OSError as error:
            errors.append(f"notify.webhook: {getattr(error, 'reason', error)}")
    return errors


def _last(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
