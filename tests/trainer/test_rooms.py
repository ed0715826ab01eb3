from __future__ import annotations

import gc

import torch

from trainer.rooms import Rooms


def test_memory_comes_back_when_no_view_of_it_is_left() -> None:
    rooms = Rooms([((4, 3), torch.uint8), ((4,), torch.int64)], pin=False)
    first, numbers = rooms.take()
    assert (first.shape, first.dtype, numbers.dtype) == ((4, 3), torch.uint8, torch.int64)
    first.fill_(1)
    address, view = first.data_ptr(), first[1:].permute(1, 0)
    del first
    second, _ = rooms.take()
    assert second.data_ptr() != address
    assert view.numpy().tolist() == [[1, 1, 1]] * 3
    row = view[0].numpy()
    del view
    assert rooms.take()[0].data_ptr() != address  # an array of NumPy's looks at it
    del row
    gc.collect()
    again = [rooms.take()[0] for _ in range(3)]
    assert address in [tensor.data_ptr() for tensor in again]


def test_kept_tensors_are_never_given_out_twice() -> None:
    rooms = Rooms([((2,), torch.int64)], pin=False)
    kept = []
    for number in range(20):
        (tensor,) = rooms.take()
        tensor.fill_(number)
        if number % 3:
            kept.append((number, tensor))
        del tensor
    assert [tensor.tolist() for _, tensor in kept] == [[number] * 2 for number, _ in kept]
