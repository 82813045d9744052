from __future__ import annotations

import pytest
import torch
import toys


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def training():
    return toys.part(toys.synthetic(), 384)
