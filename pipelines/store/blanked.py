"""A shard's tar without some of its samples, of the same size: the offsets of all others stay true.

Manifests, catalogs and sidecars lead to pictures by offset, so a tar that closed up would make them all wrong.
Instead each file of a removed sample gives way to one of the same length that holds zeros, by a name that no reader
takes for a sample: without an extension, and with the underscores that webdataset passes over.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Collection

from filters.errors import ShardError

FILLER = "__removed__"


def blanked(tar: bytes, keys: Collection[str], name: str) -> bytes | None:
    """The tar with every file of the samples `keys` overwritten; None where there is none of them.

    ShardError, with the tar's `name`, where it cannot be read.
    """
    out = bytearray(tar)
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as files:
            places = [(m.offset, m.offset_data, m.size) for m in files if m.name.split(".", 1)[0] in keys]
    except tarfile.TarError as error:
        raise ShardError(
            f"{name}: cannot be read ({error}); delete its parquet and download the shard again"
        ) from error
    for start, data, size in places:
        # Blocks of headers before the member's own, as PAX has them, go with it.
        end = data + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        filler = tarfile.TarInfo(FILLER)
        filler.size, filler.mode = end - start - tarfile.BLOCKSIZE, 0o444
        out[start:end] = filler.tobuf(tarfile.USTAR_FORMAT) + bytes(filler.size)
    return bytes(out) if places else None
