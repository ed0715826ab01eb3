"""Short names for what a file was made from: equal inputs and settings give equal fingerprints."""

from __future__ import annotations

import hashlib
import json
from typing import Any

# Keys of the metadata in published parquet files.
KEY = "headwater.fingerprint"
SHARDS = "headwater.shards"  # slices that an ingest made of its source
SAMPLES_PER_SHARD = "headwater.samples_per_shard"
INGEST = "headwater.ingest"  # fingerprint of the ingest that a retry's rows come from; empty for adopted tars
FIRST = "headwater.first"  # number of the first slice of a retry


def fingerprint(*parts: Any) -> str:
    """16 hex characters over the canonical JSON of `parts`."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
