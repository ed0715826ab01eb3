"""All pairs of 64-bit hashes that differ in few bits, found without comparing all with all.

The bits are cut into m blocks. Two hashes that differ in at most r bits agree on at least m − r blocks (pigeonhole;
Manku, Jain and Das Sarma, "Detecting Near-Duplicates for Web Crawling", 2007), so for each choice of m − r blocks the
hashes are sorted by these blocks and only those that agree on them are compared. The blocks carry about equal
information, and m is the one with the least expected cost on a sample of the hashes; few hashes, and large radii, are
compared by brute force. Real hashes crowd (a flat picture's are mostly alike): where many share a key they are
compared by brute force or searched again by their other bits, whichever costs less. The search is complete for
every input; only its time depends on the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import faiss
import numpy as np
import numpy.typing as npt

from filters.errors import InputError

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]
Found = tuple[Hashes, Hashes]

MOST_PAIRS = 100_000_000  # of different hashes: 3 GB

_BITS = 64
_BRUTE = 1 << 22  # comparisons that are not worth a plan
_DENSE = 1 << 13  # comparisons within one key that are worth a call of their own
_CROWD = 1 << 24  # and a search of their own
_SLAB = 1 << 21  # sorted hashes looked at together
_CHUNK = 1 << 17  # candidate pairs compared together: they stay in the cache
_TABLE = 1 << 16  # hashes translated together
_SAMPLE = 1 << 15
_TRIED = 6  # choices of blocks whose crowding is measured for each m
# Nanoseconds: per hash for a choice of blocks (translate, sort, find runs), per candidate of a rare key and of a
# dense one, per comparison by brute force.
_PER_HASH, _PER_CANDIDATE, _PER_DENSE, _PER_COMPARISON = 50.0, 9.0, 1.0, 0.5


def hamming_pairs(queries: Hashes, base: Hashes, radius: int) -> Pairs:
    """All (i, j) with at most `radius` differing bits between queries[i] and base[j]: int64 [P, 2], sorted."""
    ours, rows = _distinct(queries)
    theirs, columns = _distinct(base)
    a, b = _join(ours, theirs, radius)
    return _expanded(rows, np.searchsorted(ours, a), columns, np.searchsorted(theirs, b))


def hamming_self_pairs(hashes: Hashes, radius: int) -> Pairs:
    """Pairs (i, j), i < j, with at most `radius` differing bits between two of `hashes`: int64 [P, 2], sorted.

    Of equal hashes the first stands for all: each other one is paired with it alone, and only the first is paired
    with different hashes. So 100,000 equal hashes give 99,999 pairs, and every pair within the radius is joined by at
    most three of those returned; whoever needs all members of a group closes it over these pairs.
    """
    values, rows = _distinct(hashes)
    first = rows.row[rows.start[:-1]]
    a, b = _join(values, None, radius)
    i, j = first[np.searchsorted(values, a)], first[np.searchsorted(values, b)]
    owner, place = _ranges(rows.start[:-1] + 1, rows.start[1:])
    left = np.concatenate([np.minimum(i, j), first[owner]])
    return _sorted(left, np.concatenate([np.maximum(i, j), rows.row[place]]), len(hashes))


@dataclass(frozen=True, slots=True)
class _Owners:
    """The rows int64 [N] of each distinct value, ascending: those of value v are row[start[v] : start[v + 1]]."""

    row: Rows
    start: Rows


def _distinct(hashes: Hashes) -> tuple[Hashes, _Owners]:
    row = np.argsort(hashes, kind="stable").astype(np.int64, copy=False)
    ordered = hashes[row]
    new = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(row)])
    return ordered[new], _Owners(row, np.append(new, len(row)))


def _expanded(rows: _Owners, a: Rows, columns: _Owners, b: Rows) -> Pairs:
    """Pairs of distinct values as pairs of all their rows."""
    pair, left = _ranges(rows.start[a], rows.start[a + 1])
    owner, right = _ranges(columns.start[b[pair]], columns.start[b[pair] + 1])
    return _sorted(rows.row[left[owner]], columns.row[right], len(columns.row))


def _sorted(first: Rows, second: Rows, size: int) -> Pairs:
    """Pairs by their numbers; the second ones are below `size`."""
    # Sorting single numbers is ten times faster than sorting by two keys.
    return np.stack(np.divmod(np.sort(first * size + second), max(1, size)), axis=1)


def _ranges(low: Rows, high: Rows) -> tuple[Rows, Rows]:
    """Every number of each range [low, high): the range's number, and the number itself."""
    count = high - low
    owner = np.repeat(np.arange(len(low)), count)
    shift = low - np.cumsum(count) + count
    return owner, np.arange(len(owner)) + shift[owner]


def _join(ours: Hashes, theirs: Hashes | None, radius: int) -> Found:
    """All pairs of values within `radius`, each once: of ours with theirs, or of different ones among ours."""
    if not len(ours) or (theirs is not None and not len(theirs)):
        return ours[:0], ours[:0]
    plan = _plan(ours, theirs, radius)
    if plan is None:
        return _brute(ours, theirs, radius)
    parts, total = [], 0
    for chosen in combinations(range(len(plan)), len(plan) - radius):
        for a, b in _agreeing(ours, theirs, [bit for block in chosen for bit in plan[block]], radius):
            # A pair that agrees on more blocks than it must belongs to the first choice alone that finds it.
            apart, first = a ^ b, np.ones(len(a), np.bool_)
            for block in set(range(chosen[-1])) - set(chosen):
                first &= (apart & _mask(plan[block])) != 0
            parts.append((a[first], b[first]))
            total += int(first.sum())
            _check_number(total, radius)
    return _together(parts, ours)


def _together(parts: Sequence[Found], like: Hashes) -> Found:
    return np.concatenate([like[:0], *(a for a, _ in parts)]), np.concatenate([like[:0], *(b for _, b in parts)])


def _brute(ours: Hashes, theirs: Hashes | None, radius: int) -> Found:
    base = ours if theirs is None else theirs
    index = faiss.IndexBinaryFlat(_BITS)
    index.add(np.ascontiguousarray(base).view(np.uint8).reshape(-1, 8))
    parts, total = [], 0
    # However near all are to each other, no block finds more than can be held.
    step = max(1, min(_TABLE, MOST_PAIRS // len(base)))
    for start in range(0, len(ours), step):
        block = np.ascontiguousarray(ours[start : start + step])
        # faiss reports distances strictly below its radius.
        ends, _, found = index.range_search(block.view(np.uint8).reshape(-1, 8), radius + 1)
        ends = np.asarray(ends, np.int64)
        a, b = np.repeat(block, ends[1:] - ends[:-1]), base[found]
        keep = a < b if theirs is None else np.ones(len(a), np.bool_)
        parts.append((a[keep], b[keep]))
        total += int(keep.sum())
        _check_number(total, radius)
    return _together(parts, ours)


def _check_number(pairs: int, radius: int) -> None:
    if pairs > MOST_PAIRS:
        raise InputError(f"more than {MOST_PAIRS:,} pairs of hashes within {radius} bits: use a smaller radius")


def _plan(ours: Hashes, theirs: Hashes | None, radius: int) -> list[list[int]] | None:
    """Blocks of bits that carry about equal information, as many as cost least; None where brute force costs less."""
    base = ours if theirs is None else theirs
    comparisons = len(ours) * len(base)
    if comparisons <= _BRUTE:
        return None
    some = _some(ours) if theirs is None else np.concatenate([_some(ours), _some(theirs)])
    ones = np.array([np.count_nonzero(some & np.uint64(1 << bit)) / len(some) for bit in range(_BITS)])
    # Information (bits) in which two hashes that agree on this bit differ from two at random.
    information = -np.log2(ones**2 + (1 - ones) ** 2)
    live = [int(bit) for bit in np.argsort(-information, kind="stable") if information[bit] > 1e-9]
    best, plan = comparisons * _PER_COMPARISON, None
    for count in range(radius + 1, min(radius + 5, len(live)) + 1):
        choices = comb(count, radius)
        fixed = choices * _PER_HASH * (len(ours) + (0 if theirs is None else len(theirs)))
        if fixed >= best:
            break
        blocks = _blocks(live, information, count)
        pairs = comparisons * (0.5 if theirs is None else 1.0)
        cost = fixed + choices * pairs * _crowding(some, blocks, radius, np.sqrt(comparisons))
        if cost < best:
            best, plan = cost, blocks
    return plan


def _some(hashes: Hashes) -> Hashes:
    """A sample without chance: evenly spaced values."""
    return hashes[:: max(1, len(hashes) // _SAMPLE)]


def _blocks(live: Sequence[int], information: npt.NDArray[np.float64], count: int) -> list[list[int]]:
    """`live` bits, the most informative first, dealt to the block that has the least so far."""
    blocks: list[list[int]] = [[] for _ in range(count)]
    total = [0.0] * count
    for bit in live:
        least = min(range(count), key=lambda block: (total[block], block))
        blocks[least].append(bit)
        total[least] += information[bit]
    return blocks


def _crowding(some: Hashes, blocks: Sequence[Sequence[int]], radius: int, size: float) -> float:
    """Nanoseconds for each pair of `size` hashes like these and a choice of blocks: the mean over a few choices."""
    choices = list(combinations(range(len(blocks)), len(blocks) - radius))
    costs = []
    for chosen in choices[:: max(1, len(choices) // _TRIED)]:
        bits = [bit for block in chosen for bit in blocks[block]]
        _, count = np.unique(some & _mask(bits), return_counts=True)
        dense = (count > 1) & ((count * size / len(some)) ** 2 > _DENSE)
        pairs = count * (count - 1.0) / (len(some) * (len(some) - 1.0))
        # Never below what bits that are all fair and independent would give: a sample cannot see that far.
        costs.append(_PER_CANDIDATE * max(pairs[~dense].sum(), 0.5 ** len(bits)) + _PER_DENSE * pairs[dense].sum())
    return float(np.mean(costs))


def _mask(bits: Sequence[int]) -> np.uint64:
    return np.uint64(sum(1 << bit for bit in bits))


def _agreeing(ours: Hashes, theirs: Hashes | None, key: Sequence[int], radius: int) -> Iterator[Found]:
    """All pairs within `radius` that agree on the bits `key`, in parts."""
    # The key on top; what place each bit has then, from the lowest, and the bit of each place.
    bits = [*(bit for bit in range(_BITS) if bit not in set(key)), *key]
    forward, back = _tables(sorted(range(_BITS), key=bits.__getitem__)), _tables(bits)
    a = np.sort(_translate(ours, forward))
    b = a if theirs is None else np.sort(_translate(theirs, forward))
    shift = np.uint64(_BITS - len(key))
    start = 0
    while start < len(a):
        stop = min(start + _SLAB, len(a))
        # A slab ends where a key ends.
        stop = int(np.searchsorted(a, a[stop - 1] | _low(shift), "right"))
        slab = a[start:stop]
        for x, y in _in_slab(slab, slab if theirs is None else b, theirs is None, shift, radius):
            yield _translate(x, back), _translate(y, back)
        start = stop


def _low(shift: np.uint64) -> np.uint64:
    return np.uint64((1 << int(shift)) - 1)


def _in_slab(a: Hashes, b: Hashes, same: bool, shift: np.uint64, radius: int) -> Iterator[Found]:
    """All pairs within `radius` of sorted a and b that agree above `shift`; of different ones of a where `same`."""
    keys = a >> shift << shift
    runs = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    ends = np.append(runs[1:], len(a))
    low, high = runs, ends
    if not same:
        low, high = np.searchsorted(b, keys[runs]), np.searchsorted(b, keys[runs] | _low(shift), "right")
    comparisons = (ends - runs) * (high - low)
    for run in np.flatnonzero(comparisons > _DENSE):
        search = _join if comparisons[run] > _CROWD else _dense
        # These agree on the key, so a search goes on in the bits below it.
        yield search(a[runs[run] : ends[run]], None if same else b[low[run] : high[run]], radius)
    rare = np.flatnonzero((comparisons <= _DENSE) & (high - low > int(same)))
    owner, rows = _ranges(runs[rare], ends[rare])
    first = rows + 1 if same else low[rare][owner]
    last = high[rare][owner]
    total = np.concatenate([[0], np.cumsum(last - first)])
    cuts = np.searchsorted(total, np.arange(0, total[-1] + _CHUNK, _CHUNK))
    for start, stop in pairwise(cuts):
        owner, place = _ranges(first[start:stop], last[start:stop])
        x, y = a[rows[start:stop]][owner], b[place]
        close = np.flatnonzero(np.bitwise_count(x ^ y) <= radius)
        yield x[close], y[close]


def _dense(ours: Hashes, theirs: Hashes | None, radius: int) -> Found:
    """Brute force without the setting up of an index."""
    base = ours if theirs is None else theirs
    step = max(1, _CHUNK // len(base))
    parts = []
    for start in range(0, len(ours), step):
        block = ours[start : start + step]
        # Sorted: of one set only what comes after the block's first can be new.
        other = base[start + 1 :] if theirs is None else base
        row, column = np.divmod(
            np.flatnonzero(np.bitwise_count(block[:, None] ^ other) <= radius), max(1, len(other))
        )
        keep = block[row] < other[column] if theirs is None else np.ones(len(row), np.bool_)
        parts.append((block[row[keep]], other[column[keep]]))
    return _together(parts, ours)


def _tables(places: Sequence[int]) -> list[Hashes]:
    """For each 16 bits of a hash the 65,536 values that they become when bit k moves to the bit places[k]."""
    tables = []
    for start in range(0, _BITS, 16):
        table = np.zeros(1, np.uint64)
        for place in places[start : start + 16]:
            table = np.concatenate([table, table | np.uint64(1 << place)])
        tables.append(table)
    return tables


def _translate(hashes: Hashes, tables: Sequence[Hashes]) -> Hashes:
    out = np.empty_like(hashes)
    for start in range(0, len(hashes), _TABLE):
        block = np.ascontiguousarray(hashes[start : start + _TABLE])
        parts = [table.take((block >> np.uint64(16 * k)) & np.uint64(0xFFFF)) for k, table in enumerate(tables)]
        out[start : start + _TABLE] = parts[0] | parts[1] | parts[2] | parts[3]
    return out
