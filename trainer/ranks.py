"""One process among those that train together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import distributed

_BUCKET = 1 << 25  # numbers that are summed over all processes in one go


@dataclass(frozen=True, slots=True)
class Ranks:
    """Process `rank` of `world`; with one alone, every exchange is nothing at all."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Those of the default process group, or one process alone if there is none."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """All processes' `values` [N, ...], of one shape, one after the other: [world * N, ...]; no gradient."""
        if self.world == 1:
            return values.detach()
        parts = [torch.empty_like(values) for _ in range(self.world)]
        distributed.all_gather(parts, values.detach().contiguous())
        return torch.cat(parts)

    def reduce_scatter(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over processes of `values` [world * N, ...], and of that this process's own part [N, ...]."""
        if self.world == 1:
            return values
        whole = values.contiguous()
        distributed.all_reduce(whole)  # gloo has no reduce_scatter
        return whole.chunk(self.world)[self.rank]

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in few large exchanges."""
        if self.world == 1:
            return
        bucket: list[torch.Tensor] = []
        for tensor in tensors:
            if bucket and (sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET or tensor.dtype != bucket[0].dtype):
                _sum_bucket(bucket)
                bucket = []
            bucket.append(tensor)
        if bucket:
            _sum_bucket(bucket)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            distributed.barrier()


def _sum_bucket(bucket: Sequence[torch.Tensor]) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
    distributed.all_reduce(flat)
    start = 0
    for tensor in bucket:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()
