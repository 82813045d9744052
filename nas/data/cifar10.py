"""CIFAR-10 as torchvision reads it, checked against the published md5 sums."""

from __future__ import annotations

from pathlib import Path

import torch

from nas.data.dataset import Split, SplitName
from nas.errors import DataError

FOLDER = "cifar-10-batches-py"


class Cifar10:
    """A reader of the five training batches and the test batch."""

    downloads = True
    archive = "cifar-10-python.tar.gz"

    def files(self, split: SplitName, root: Path) -> tuple[Path, ...]:
        batches = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
        return tuple(self._home(root) / FOLDER / name for name in (*batches, "batches.meta"))

    def fetch(self, split: SplitName, folder: Path) -> None:
        from torchvision.datasets import CIFAR10

        CIFAR10(folder, download=True)

    def read(self, split: SplitName, root: Path) -> Split:
        from torchvision.datasets import CIFAR10
        from torchvision.datasets.utils import check_integrity

        # torchvision's class checks the md5 of both splits; without the other split's list it leaves them shut.
        class OneSplit(CIFAR10):  # type: ignore[misc]
            train_list = CIFAR10.train_list if split == "train" else []
            test_list = CIFAR10.test_list if split == "test" else []

        home = self._home(root)
        try:
            read = OneSplit(home, train=split == "train")
        except RuntimeError as error:
            sums = [*OneSplit.train_list, *OneSplit.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
            broken = [name for name, md5 in sums if not check_integrity(home / FOLDER / name, md5)]
            raise DataError(
                f"{', '.join(broken)} in {home / FOLDER} differ from the published md5: "
                f"delete them and run again to fetch them anew"
            ) from error
        images = torch.from_numpy(read.data.transpose(0, 3, 1, 2).copy())  # from (N, H, W, C)
        return Split(images, torch.tensor(read.targets))

    def _home(self, root: Path) -> Path:
        """Return the data directory, also when the folder of the batches itself was given as such."""
        return root.parent if root.name == FOLDER and not (root / FOLDER).is_dir() else root
