"""Stripes under noise, for tests and first tries: no file, no network, the same bytes everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas.data.dataset import Dataset, Split, SplitName


@dataclass(frozen=True)
class Synthetic:
    """A maker of stripes, horizontal, vertical or along one of the two diagonals: a class is a direction.

    Period, phase and contrast are drawn for each image, so that no pixel and no mean tells the class, and the
    faintest stripes drown.
    """

    dataset: Dataset

    downloads = False
    archive = None

    def files(self, split: SplitName, root: Path) -> tuple[Path, ...]:
        return ()

    def fetch(self, split: SplitName, folder: Path) -> None:
        """Do nothing: there is no file."""

    def read(self, split: SplitName, root: Path) -> Split:
        _, height, width = self.dataset.input_shape
        num_images = self.dataset.num_train + self.dataset.num_test
        generator = np.random.RandomState(20)  # NumPy's legacy generator, because its stream is frozen

        def draw(low: int, high: int, *shape: int) -> Tensor:  # whole numbers: no rounding differs between machines
            return torch.from_numpy(generator.randint(low, high, (num_images, *shape), dtype=np.int64))

        labels = torch.arange(num_images) % self.dataset.num_classes
        step_y = torch.tensor([1, 0, 1, 1])[labels].view(-1, 1, 1)
        step_x = torch.tensor([0, 1, 1, -1])[labels].view(-1, 1, 1)
        y, x = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
        period, phase = draw(4, 7, 1, 1), draw(0, 60, 1, 1)  # 60: a multiple of every period
        bright = (y * step_y + x * step_x + phase) % period < period // 2
        images = draw(0, 6, 1, 1) + bright * draw(10, 150, 1, 1) + draw(0, 102, height, width)
        chosen = slice(self.dataset.num_train) if split == "train" else slice(self.dataset.num_train, None)
        return Split(images[chosen].unsqueeze(1).to(torch.uint8), labels[chosen])
