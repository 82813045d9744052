from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from idx_files import CLASSES, MNIST, rows

from nas import data
from nas.errors import UsageError


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    where=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_split_is_stratified_exactly(counts: list[int], where: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    total, num_classes = sum(counts), len(counts)
    labels = torch.repeat_interleave(torch.arange(num_classes), torch.tensor(counts))
    labels = labels[torch.randperm(total, generator=generator)]
    whole = data.Split(torch.arange(total), labels)
    size = num_classes + round(where * (total - 2 * num_classes))
    if not num_classes <= size <= total - num_classes:
        with pytest.raises(UsageError):
            data.stratified_split(whole, size, num_classes, generator)
        return
    rest, chosen = data.stratified_split(whole, size, num_classes, generator)
    assert len(chosen) == size
    assert sorted(rest.images.tolist() + chosen.images.tolist()) == list(range(total))
    for split in (rest, chosen):
        assert torch.equal(split.labels, labels[split.images])  # images have their labels still
        assert split.images.tolist() == sorted(split.images.tolist())  # and their order
    for label, count in enumerate(counts):
        share = count * size / total
        assert math.floor(share) <= int((chosen.labels == label).sum()) <= math.ceil(share)


def test_validation_is_one_sixth_disjoint_and_decided_by_the_seed(toy):
    whole = rows(data.load_training_data(MNIST, data_dir=toy, validation=None).train.images)
    first, again, other = (data.load_training_data(MNIST, data_dir=toy, seed=seed) for seed in (1, 1, 2))
    assert first.validation is not None
    assert again.validation is not None
    assert other.validation is not None
    assert len(first.validation) == 33
    assert not rows(first.train.images) & rows(first.validation.images)
    assert rows(first.train.images) | rows(first.validation.images) == whole
    assert torch.equal(first.validation.images, again.validation.images)
    assert torch.equal(first.train.labels, again.train.labels)
    assert rows(first.validation.images) != rows(other.validation.images)
    assert first.hash == other.hash  # of the whole training set, however it is split


def test_folds_are_disjoint_parts_of_the_training_images_in_proportion(toy):
    first = data.load_training_data(MNIST, data_dir=toy, validation=40)
    assert data.with_fold(first, 0) is first
    folds = [data.with_fold(first, number) for number in range(6)]
    held_out = [rows(each.validation.images) for each in folds]
    assert held_out[4] == held_out[1]  # 160 images have three other parts of 40 and an image a class to learn from
    assert held_out[5] == held_out[2]
    for each in folds[:4]:
        assert len(each.validation) == 40
        shares = torch.bincount(each.validation.labels) / torch.bincount(first.train.labels)
        assert shares.max() - shares.min() < 0.2
        together = rows(torch.cat([each.train.images, each.validation.images]))
        assert sorted(together) == sorted(rows(torch.cat([first.train.images, first.validation.images])))
        assert each.normalization == data.Normalization.from_images(each.train.images)
        assert each.hash == first.hash
    assert len({row for part in held_out[:4] for row in part}) == 4 * 40
    again = data.with_fold(first, 2)
    assert rows(again.validation.images) == held_out[2]
    assert again.validation.labels.equal(folds[2].validation.labels)
    _, few = data.stratified_split(first.train, 32, CLASSES, torch.Generator().manual_seed(0))
    thin = dataclasses.replace(first, train=few)
    assert data.with_fold(thin, 3) is thin


def test_training_data_can_be_sent_to_a_spawned_worker(toy):
    loaded = data.load_training_data(MNIST, data_dir=toy)
    sent = pickle.loads(pickle.dumps(loaded))
    assert torch.equal(sent.train.images, loaded.train.images)
    assert (sent.dataset, sent.normalization, sent.hash) == (MNIST, loaded.normalization, loaded.hash)


def test_mean_and_std_leave_validation_out(toy):
    loaded = data.load_training_data(MNIST, data_dir=toy)
    assert loaded.normalization.mean[0] == pytest.approx((loaded.train.images.double() / 255).mean().item(), rel=1e-12)
    assert loaded.normalization != data.load_training_data(MNIST, data_dir=toy, validation=None).normalization


def test_a_part_of_the_training_images_is_among_them_and_leaves_validation(toy):
    full = data.load_training_data(MNIST, data_dir=toy, validation=40)
    assert full.validation is not None
    _, part = data.stratified_split(full.train, 40, CLASSES, torch.Generator().manual_seed(0))
    assert len(part) == 40
    assert rows(part.images) < rows(full.train.images)
    assert not rows(part.images) & rows(full.validation.images)


@pytest.mark.parametrize("size", [0, 9, 191, 0.01, 300, -10])
def test_splits_without_an_image_per_class_are_refused(toy, size):
    with pytest.raises(UsageError, match="give 10 to 190, an image per class"):
        data.load_training_data(MNIST, data_dir=toy, validation=size)
    whole = data.load_training_data(MNIST, data_dir=toy, validation=None).train
    with pytest.raises(UsageError, match="give 10 to 190"):
        data.stratified_split(whole, round(size), CLASSES, torch.Generator())
