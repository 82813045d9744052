from __future__ import annotations

import torch
from idx_files import CLASSES, rows
from torch import nn
from torch.nn import functional as F

from nas import data

SYNTHETIC = data.DATASETS["synthetic"]


def test_mnist_5k_is_split_evenly_and_disjointly(tmp_path):
    dataset = data.prepare_dataset("mnist-5k", data_dir=tmp_path)
    loaded = data.load_training_data(dataset, data_dir=tmp_path, validation=None)
    test = data.open_test(dataset, data_dir=tmp_path, log=tmp_path / "log", purpose="law")
    assert loaded.train.labels.bincount().tolist() == [400] * CLASSES
    assert test.labels.bincount().tolist() == [100] * CLASSES
    assert len(rows(test.images)) == 1000
    assert not rows(loaded.train.images) & rows(test.images)
    assert loaded.hash == "513cb34b57f94e8cb7271524b8e9acfde6507011966c3ff7e008bea84ece013a"  # one rule, for ever
    assert loaded.train.images.shape[1:] == dataset.input_shape
    assert not dataset.comparable
    assert dataset.notice is not None


def test_synthetic_is_the_same_everywhere(tmp_path):
    loaded = data.load_training_data(SYNTHETIC, data_dir=tmp_path, validation=None)
    test = data.open_test(SYNTHETIC, data_dir=tmp_path, log=tmp_path / "log", purpose="law")
    assert loaded.hash == "91fe29ea8d12226cbe9dd100d6ada0c9290f86f587a7fa461c462bc5824332f6"
    assert (len(loaded.train), len(test)) == (SYNTHETIC.num_train, SYNTHETIC.num_test)
    assert loaded.train.labels.bincount().tolist() == [SYNTHETIC.num_train // 4] * 4
    assert not rows(loaded.train.images) & rows(test.images)


def test_synthetic_can_be_learned_but_not_at_a_glance(tmp_path):
    loaded = data.load_training_data(SYNTHETIC, data_dir=tmp_path)
    assert loaded.validation is not None
    images, labels = loaded.normalization.apply(loaded.train.images), loaded.train.labels
    held_out = loaded.normalization.apply(loaded.validation.images)
    # The nearest class mean, which sees pixels and not stripes, is left near chance.
    means = torch.stack([images[labels == label].mean(0) for label in range(4)]).flatten(1)
    nearest = torch.cdist(held_out.flatten(1), means).argmin(1)
    assert (nearest == loaded.validation.labels).float().mean() < 0.45

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    for _ in range(2):
        for batch in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    accuracy = (model.eval()(held_out).argmax(1) == loaded.validation.labels).float().mean()
    assert 0.4 < accuracy < 0.99
