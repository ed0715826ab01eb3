"""Configuration: YAML, overrides and the one clear line for each mistake."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from filters.errors import ConfigError
from pipelines.build_mix import MixJobConfig
from pipelines.config import JobConfig, add_flags, load_config, parse_flags, separated
from pipelines.dedupe import DedupeConfig
from pipelines.download import DownloadConfig
from pipelines.ingest import IngestConfig
from pipelines.mixture import MixConfig
from pipelines.train import TrainJobConfig

GOOD = "name: even\ntotal: 10\nsources: [{source: yfcc}, {source: laion, weight: 2}]\n"


def write(folder: Path, text: str) -> str:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_yaml_and_overrides(tmp_path: Path) -> None:
    config = load_config(MixConfig, write(tmp_path, GOOD), [("total", 4), ("sources.1.weight", 3)])
    assert (config.total, config.sources[1].weight) == (4, 3)


def test_nested_override_without_a_file() -> None:
    assert load_config(DownloadConfig, None, [("fetch.deadline", 3)]).fetch.deadline == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nmae: x\ntotal: 1\nsources: [{source: a}]\n", "unknown key 'nmae'; did you mean 'name'?"),
        ("name: x\ntotal: 1\nsources: [{sorce: a}]\n", "unknown key 'sources.0.sorce'; did you mean 'source'?"),
        ("name: x\ntotal: many\nsources: [{source: a}]\n", "field 'total'"),
        ("name: x\ntotal: 0\nsources: [{source: a}]\n", "greater than or equal to 1, found 0"),
        ("name: x\ntotal: 1\nsources: []\n", "field 'sources'"),
        ("name: x\ntotal: 1\nsources: [{source: a}, {source: a}]\n", "source a is listed twice"),
        ("name: ../x\ntotal: 1\nsources: [{source: a}]\n", "field 'name'"),
        ("total: 1\nsources: [{source: a}]\n", "field 'name': field required"),
        ("name: x\ntotal: 1\nwhere: 'true) OR (true'\nsources: [{source: a}]\n", "not one SQL condition"),
        ("name: x\ntotal: 1\nwhere: 'true; DROP TABLE samples'\nsources: [{source: a}]\n", "not one SQL condition"),
        ("name: x\ntotal: 1\nwhere: 'true) -- '\nsources: [{source: a}]\n", "not one SQL condition"),
        ("- a\n- b\n", "expected a mapping"),
        ("name: [x\n", "not valid YAML at line"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(MixConfig, path, [])
    assert says in str(caught.value)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dotted", "value", "says"),
    [
        ("sources.x.weight", 1, "--set sources.x.weight: x is not a position in a list of 2"),
        ("sources.9.weight", 1, "--set sources.9.weight: 9 is not a position"),
        ("sources.-1", 1, "--set sources.-1: -1 is not a position"),
        ("total.x", 1, "--set total.x: total holds a single value"),
        ("total", "many", "command line: field 'total'"),
        ("sources.1.weight", float("inf"), "command line: field 'sources.1.weight'"),
    ],
)
def test_wrong_overrides_are_one_clear_line(tmp_path: Path, dotted: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(MixConfig, write(tmp_path, GOOD), [(dotted, value)])
    assert str(caught.value).startswith(says)


def test_a_date_that_is_none_is_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(MixConfig, write(tmp_path, "name: 2024-13-45\n"), [])


@pytest.mark.parametrize(
    ("text", "value"), [("status: 'x'", "status: 'x'"), ("123456789012", "123456789012"), ("null", None)]
)
def test_text_flags_are_taken_as_typed(text: str, value: str | None) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, MixConfig)
    assert parse_flags(parser.parse_args(["--where", text]), MixConfig) == [("where", value)]


@pytest.mark.parametrize("text", ["[one, two]", "one,two", "one, two"])
@pytest.mark.parametrize(
    ("model", "name"),
    [(DownloadConfig, "sources"), (DownloadConfig, "retry"), (DownloadConfig, "placeholder_hashes"),
     (TrainJobConfig, "mixtures"), (DedupeConfig, "priority"), (IngestConfig, "allowed_nsfw")],
)  # fmt: skip
def test_lists_of_texts_can_be_given_by_flag(model: type[JobConfig], name: str, text: str) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, model)
    flag = "--" + name.replace("_", "-")
    assert parse_flags(parser.parse_args([flag, text]), model) == [(name, ["one", "two"])]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--local", "x"], ["--local=true", "x"]),
        (["--local", "No", "x"], ["--local", "No", "x"]),
        (["x", "--local"], ["x", "--local=true"]),
        (["--local=false", "x", "--dry-run", "y"], ["--local=false", "x", "--dry-run", "y"]),
        ([], []),
    ],
)
def test_a_switch_takes_only_a_truth_value(words: list[str], expected: list[str]) -> None:
    assert separated(words, JobConfig) == expected


def test_help_names_the_nested_fields() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, DownloadConfig)
    assert "fetch.limit.rate: requests a second" in parser.format_help()


def test_a_wrong_name_override_is_found_before_any_work() -> None:
    with pytest.raises(ConfigError, match="'localhost:80' is not ADDRESS:PORT"):
        load_config(DownloadConfig, None, [("fetch.resolve", {"*.test": "localhost:80"})])


@pytest.mark.parametrize("text", ["hashes.txt", "sha256:", "md5:" + 31 * "0", "sha1:" + 40 * "0", 64 * "0"])
def test_a_placeholder_that_is_no_hash_would_never_be_found(text: str) -> None:
    known = "md5:" + 32 * "A"
    with pytest.raises(
        ConfigError, match=rf"'placeholder_hashes'.*'{text}' is no hash, which is `sha256:` and 64 or"
    ):
        load_config(DownloadConfig, None, [("placeholder_hashes", [known, text])])
    found = load_config(DownloadConfig, None, [("placeholder_hashes", [known])])
    assert found.placeholder_hashes == (known.lower(),)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(MixConfig, str(tmp_path / "none.yaml"), [])


def test_shipped_mixtures_are_valid() -> None:
    for path in sorted((Path(__file__).parents[2] / "configs" / "mixes").glob("*.yaml")):
        assert load_config(MixJobConfig, str(path), []).name == path.stem
