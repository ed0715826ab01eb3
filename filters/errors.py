"""The one tree of errors that Headwater raises on purpose.

    HeadwaterError            exit code 1
    ├── ConfigError           2   a configuration file, flag or key is wrong
    ├── InputError            2   an input file, table or picture set cannot be used
    │   └── SchemaError       2   a file's columns are not what its schema says
    ├── ModelError            2   a model cannot be found, loaded or used for what was asked
    ├── ShardError            1   one shard could not be read or written
    └── BudgetExceeded        3   the job finished, with more failures than `max_failed_fraction`

A message is one line that says what is wrong, where, and what to do about it. Errors of single rows never
become exceptions: they become the columns `status` and `reason`.

The module stands in `filters` because that is the only room which every other room may import.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class HeadwaterError(Exception):
    """Base of all deliberate errors; `exit_code` is what the command line returns for it."""

    exit_code = 1


class ConfigError(HeadwaterError):
    """A configuration file, flag or key is wrong."""

    exit_code = 2


class InputError(HeadwaterError):
    """An input file, table or picture set cannot be used."""

    exit_code = 2


class SchemaError(InputError):
    """A file's columns are not what its schema says."""


class ModelError(HeadwaterError):
    """A model cannot be found, loaded or used for what was asked."""

    exit_code = 2


class ShardError(HeadwaterError):
    """One shard could not be read or written."""


class BudgetExceeded(HeadwaterError):
    """The job finished, with more failures than its `max_failed_fraction` allows; `summary` is what it did."""

    exit_code = 3

    def __init__(self, text: str, summary: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.summary = dict(summary)
