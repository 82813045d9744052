"""The C code on Cortex-M: real digits, the very logits; flash and memory as counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from cortex import PROCESSORS, Processor, compiler, run
from deployed import integer_network, mnist, record

from nas.export.c import compiled_size, write_c


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda processor: processor.name)
def test_a_record_gives_the_very_logits_on_cortex_m(processor: Processor, mnist_dir: Path, tmp_path: Path) -> None:
    network, (images, _) = record(1000), mnist(mnist_dir, "train", 60)
    for integer in (integer_network(network, images[:50]), None):
        counted = write_c(tmp_path, network, images[50:], integer).size
        size = compiled_size(tmp_path, compiler(processor))
        assert size is not None
        assert size.data == 0
        assert counted.arena <= size.bss <= counted.arena + 8
        assert 0 < size.text - counted.weights - counted.tables < counted.code  # code and class names
        wrong, instructions = run(tmp_path, processor)
        assert wrong == 0
        assert 10 < instructions / network.architecture.macs < 300
