"""What the report shows of attribution: pairs that `headwater attribute` drew, and tests of maps."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from evaluation.report_data import MapTest, Picture
from filters.errors import ConfigError, InputError
from pipelines.attribute import FOLDER
from pipelines.store.root import Root

MOST = 12  # pairs
Kind = TypeVar("Kind", bound=BaseModel)


class MapTests(BaseModel):
    """What a file of map tests holds beside what it was made from."""

    tests: list[MapTest]


def attributions(root: Root, fingerprint: str) -> list[Picture]:
    """The first `MOST` pairs of these settings by uid, from the best match to the worst; InputError for none."""
    place = (FOLDER, fingerprint)
    facts = [root.read_json(*place, name) for name in root.names(*place, suffix=".json")[:MOST]]
    if not facts:
        raise InputError(f"attributions {fingerprint}: nothing there; run `headwater attribute` first")
    facts.sort(key=lambda found: -found["cosine"])
    return [
        Picture(root.read_bytes(*place, f"{x['uid']}.png"), x["caption"], f"cosine {x['cosine']:.2f}") for x in facts
    ]


def map_tests(path: str) -> list[MapTest]:
    """The tests in a file; ConfigError where it holds none."""
    return read_named("map_tests", path, MapTests).tests


def map_examples(path: str) -> Picture | None:
    """The picture of examples beside the file `path`, if there is one."""
    picture = Path(path).with_suffix(".png")
    if not picture.is_file():
        return None
    return Picture(
        picture.read_bytes(), "Some of the test's pictures; below them maps for the name above each, with its box."
    )


def read_named(option: str, path: str, kind: type[Kind]) -> Kind:
    """The JSON file that an option names; ConfigError where it cannot be read or holds something else."""
    try:
        return kind.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be read ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise ConfigError(f"{option} {path}: {place}: {first['msg']}") from error
