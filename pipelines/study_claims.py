"""The claims of a study, fixed before its first run: their hash, and what was changed of them later."""

from __future__ import annotations

import datetime
import hashlib
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from filters.errors import ConfigError
from pipelines.store.root import Root

FILE = "claims.json"


class Claim(BaseModel):
    """One claim: the statistic that decides it, and what value of it shows the claim.

    A claim that the data cannot test has `cannot_test`, the reason, and no threshold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^C\d+[a-z]?$")
    claim: str
    statistic: str
    direction: Literal["at least", "at most", "above", "below"] | None = None
    threshold: float | None = None
    seeds: list[int] = []
    cannot_test: str | None = None


class Claims(BaseModel):
    """A file of claims."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    claims: list[Claim] = Field(min_length=1)


def read_claims(path: Path) -> tuple[Claims, str]:
    """The claims of a file, and the SHA-256 of its bytes; ConfigError in one line for a file that holds none."""
    try:
        data = path.read_bytes()
        found = Claims.model_validate(yaml.safe_load(data))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); a study needs its claims first") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"{path}: {where}: {problem['msg']}") from error
    for claim in found.claims:
        if claim.cannot_test is None and (claim.threshold is None or claim.direction is None or not claim.seeds):
            raise ConfigError(f"{path}: {claim.id} needs a threshold, a direction and seeds, or `cannot_test`")
    names = [claim.id for claim in found.claims]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: {', '.join(twice)} stands twice")
    return found, hashlib.sha256(data).hexdigest()


def register(root: Root, folder: str, path: Path, runs_done: int) -> dict[str, Any]:
    """Store the claims at a study's first start, and each later change of the file as an amendment.

    The record has the first file's `sha256` and its claims, and for each amendment its hash, the day, how many runs
    were done by then, and which claims it added, removed and changed.
    """
    claims, sha256 = read_claims(path)
    now = {claim.id: claim.model_dump(mode="json") for claim in claims.claims}
    if not root.exists(folder, FILE):
        record: dict[str, Any] = {"sha256": sha256, "runs_done": runs_done, "claims": now, "amendments": []}
        root.write_json(record, folder, FILE)
        return record
    record = root.read_json(folder, FILE)
    amendments = record["amendments"]
    if sha256 == (amendments[-1] if amendments else record)["sha256"]:
        return dict(record)
    before = (amendments[-1] if amendments else record)["claims"]
    amendments.append({
        "sha256": sha256,
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "runs_done": runs_done,
        "added": sorted(set(now) - set(before)),
        "removed": sorted(set(before) - set(now)),
        "changed": sorted(name for name in set(now) & set(before) if now[name] != before[name]),
        "claims": now,
    })  # fmt: skip
    root.write_json(record, folder, FILE)
    return dict(record)


def claims_of(record: Mapping[str, Any]) -> dict[str, Claim]:
    """The claims as they stand now, of what `register` stored, in order of their numbers."""
    now = (record["amendments"][-1] if record["amendments"] else record)["claims"]
    order = sorted(now, key=lambda name: (int(name[1:].rstrip(string.ascii_lowercase)), name))
    return {name: Claim.model_validate(now[name]) for name in order}
