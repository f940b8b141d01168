"""What the training loop draws from: samples by epoch and place, in an order that no resume or process changes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from groma_model.data.samples import TrainingImage


class TrainingData(Protocol):
    """So many samples an epoch, each a function of (epoch, place) alone: an :class:`ImageList` or a mixture."""

    def __len__(self) -> int: ...

    def sample(self, epoch: int, index: int) -> TrainingImage: ...

    def sources(self) -> set[str | None]:
        """The ``source`` of the samples, as far as they have one."""
        ...

    def attribute_values(self) -> dict[str, list[str]]:
        """The values of each annotated attribute, sorted."""
        ...


class ImageList:
    """Images in memory; every epoch is a new permutation of them, by seed and epoch."""

    def __init__(self, images: Sequence[TrainingImage], seed: int):
        self.images, self.seed = images, seed
        self._orders: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, epoch: int, index: int) -> TrainingImage:
        """Image at place ``index`` of an epoch."""
        return self.images[self._order(epoch)[index]]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            if len(self._orders) > 2:
                self._orders.clear()
            order = list(range(len(self.images)))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
            self._orders[epoch] = order
        return self._orders[epoch]

    def sources(self) -> set[str | None]:
        """See :class:`TrainingData`."""
        return {item.source for item in self.images}

    def attribute_values(self) -> dict[str, list[str]]:
        """The values of each attribute that the annotations use, sorted."""
        values: dict[str, set[str]] = {}
        for item in self.images:
            for attributes in item.attributes:
                for name, value in attributes.items():
                    if value:
                        values.setdefault(name, set()).add(value)
        return {name: sorted(found) for name, found in sorted(values.items())}


def batch_places(step: int, batch_size: int, count: int, process: int, processes: int) -> list[tuple[int, int]]:
    """(epoch, index) of the samples that a process sees at a step: the batch's places, split evenly and in order.

    Raises:
        ValueError: when the batch does not divide among the processes.
    """
    if batch_size % processes:
        raise ValueError(f"batch_size {batch_size} does not divide among {processes} processes")
    share = batch_size // processes
    first = step * batch_size + process * share
    return [divmod(position, count) for position in range(first, first + share)]
