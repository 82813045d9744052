"""The C code: every int8 logit that of the integer network, float logits within the tolerance, without a warning."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from deployed import ARCHITECTURES, RECORDS, integer_network, mnist, need, random_images, random_network, record
from hypothesis import given, settings
from numpy.typing import NDArray
from strategies import architectures

from nas.architecture import Architecture
from nas.data import DATASETS
from nas.errors import StorageError, UsageError
from nas.export.c import C_TOLERANCE, _header, compiled_size, write_c
from nas.export.fold import fold
from nas.export.integer import IntegerNetwork
from nas.footprint import footprint, make_plan
from nas.model import TrainedNetwork

STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
SANITIZED = [*STRICT, "-O1", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"]
PORTABLE = ["-DNAS_NET_INTEGERS_ONLY"]  # the rounding of processors without a unit for floats


def self_test(folder: Path, compiler: str, flags: list[str]) -> None:
    """Compile the self-test and run it."""
    program = folder / "self_test"
    sources = [str(folder / "nas_net.c"), str(folder / "nas_net_test.c")]
    subprocess.run([compiler, *flags, "-o", str(program), *sources], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "10 of 10 images as expected\n"


def logits(folder: Path, images: torch.Tensor, *, classes: int, kind: type) -> NDArray[np.generic]:
    """The logits (N, classes) that the compiled code gives to images (N, C, H, W)."""
    library = folder / "nas_net.so"
    subprocess.run(
        [need("gcc", "gcc"), *STRICT, "-O2", "-shared", "-fPIC", "-o", library, folder / "nas_net.c"], check=True
    )
    predict = ctypes.CDLL(str(library)).nas_net_predict
    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    found = np.zeros((len(images), classes), kind)
    for image, row in zip(pixels, found, strict=True):
        assert predict(image.ctypes.data_as(ctypes.c_void_p), row.ctypes.data_as(ctypes.c_void_p)) == row.argmax()
    return found


def check(folder: Path, network: TrainedNetwork, images: torch.Tensor, integer: IntegerNetwork) -> None:
    """Export both kinds, and compare the logits of all images."""
    write_c(folder, network, images, integer)
    wanted = integer.run(images).numpy()
    classes = len(network.classes)
    (folder / "float").mkdir()
    assert (logits(folder, images, classes=classes, kind=np.int32) == wanted).all()
    write_c(folder / "float", network, images)
    with torch.no_grad():
        eager = network.module()(network.normalization.apply(images)).numpy()
    found = logits(folder / "float", images, classes=classes, kind=np.float32)
    np.testing.assert_allclose(found, eager, atol=C_TOLERANCE, rtol=C_TOLERANCE)


@pytest.mark.parametrize(("compiler", "flags"), [("gcc", []), ("clang", PORTABLE)])
@pytest.mark.parametrize("text", ARCHITECTURES)
def test_the_self_test_passes_without_warnings_and_undefined_behaviour(
    text: str, compiler: str, flags: list[str], tmp_path: Path
) -> None:
    need(compiler, compiler)
    architecture = Architecture.parse(text)
    network, images = random_network(architecture), random_images(architecture)
    for integer in (integer_network(network, images), None):
        write_c(tmp_path, network, images, integer)
        self_test(tmp_path, compiler, [*SANITIZED, *flags])


@settings(max_examples=15)
@given(architectures(max_side=12))
def test_c_gives_the_logits_of_any_architecture(architecture: Architecture) -> None:
    network, images = random_network(architecture), random_images(architecture, 24)
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), network, images, integer_network(network, images[:12]))


@pytest.mark.parametrize("cap", RECORDS)
def test_c_gives_the_logits_of_a_record(cap: int, mnist_dir: Path, tmp_path: Path) -> None:
    network, (images, _) = record(cap), mnist(mnist_dir, "train", 300)
    check(tmp_path, network, images, integer_network(network, images[:50]))


@pytest.mark.slow
@pytest.mark.parametrize("cap", RECORDS)
def test_c_gives_the_logits_of_a_record_on_the_whole_test_split(cap: int, mnist_dir: Path, tmp_path: Path) -> None:
    network = record(cap)
    integer = integer_network(network, mnist(mnist_dir, "train", 500)[0])
    check(tmp_path, network, mnist(mnist_dir, "t10k", 10_000)[0], integer)


def test_rounding_without_floats_is_rounding_with_them(tmp_path: Path) -> None:
    """On sums beside and on halves, where a float's own rounding decides, and on large ones."""
    architecture = Architecture.parse(ARCHITECTURES[0])
    network, images = random_network(architecture), random_images(architecture)
    integer = integer_network(network, images)
    first = integer.operations[0]
    large = replace(first, bias=np.full_like(first.bias, 2**25))  # so that sums are rounded to floats as well
    write_c(tmp_path, network, images, replace(integer, operations=(large, *integer.operations[1:])))
    (tmp_path / "bytes.c").write_text(
        '#include "nas_net.c"\n'
        "void bytes(const int32_t *sum, const float *factor, const int32_t *zero, int n, uint8_t *out)\n"
        "{\n  for (int i = 0; i < n; i++) out[i] = to_byte(sum[i], factor[i], zero[i]);\n}\n"
    )
    random = np.random.default_rng(0)
    count = 200_000
    factor = (2.0 ** random.uniform(-44, 6, count)).astype(np.float32)
    near_half = (random.integers(-300, 300, count) + 0.5) / factor.astype(np.float64)
    sums = np.where(random.random(count) < 0.8, near_half, random.normal(0, 2**26, count))
    sums = np.clip(np.rint(sums) + random.integers(-1, 2, count), -(2**31) + 1, 2**31 - 1).astype(np.int32)
    zeros = random.choice([0, 1, 77, 128, 255], count).astype(np.int32)
    # factors of few bits, whose products with a sum are halves
    factor[: count // 4] = random.integers(1, 64, count // 4) * np.float32(2.0**-10)
    sums[: count // 4] = random.integers(-(2**14), 2**14, count // 4)
    found = []
    for flags in ([], PORTABLE):
        library = tmp_path / f"bytes{len(flags)}.so"
        subprocess.run(
            [need("gcc", "gcc"), "-std=c99", "-O1", *flags, "-shared", "-fPIC", "-o", library, tmp_path / "bytes.c"],
            check=True,
        )
        out = np.zeros(count, np.uint8)
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (sums, factor, zeros)]
        ctypes.CDLL(str(library)).bytes(*pointers, count, out.ctypes.data_as(ctypes.c_void_p))
        found.append(out)
    scaled = sums.astype(np.float32) * factor
    assert (found[0] == (np.rint(np.clip(scaled, -zeros, 255 - zeros)) + zeros)).all()
    assert (found[1] == found[0]).all()
    assert np.unique(found[0]).size == 256


def test_memory_and_flash_are_what_is_counted(tmp_path: Path) -> None:
    for text in ARCHITECTURES[:5]:
        architecture = Architecture.parse(text)
        network, images = random_network(architecture), random_images(architecture)
        for integer in (integer_network(network, images), None):
            counted = write_c(tmp_path, network, images, integer).size
            size = compiled_size(tmp_path, ("gcc", "-Os", "-fno-pie"))
            if size is None:
                pytest.skip("no gcc: apt-get install gcc")
            assert counted.arena <= size.bss <= counted.arena + 3 * 32  # gcc aligns arrays to 32 bytes on x86
            code = size.text - counted.weights - counted.tables
            assert 0 < code < 4000
            assert counted.image == images[0].numel()


@pytest.mark.parametrize("text", ARCHITECTURES)
def test_what_a_network_takes_is_counted_before_it_is_trained(text: str, tmp_path: Path) -> None:
    architecture = Architecture.parse(text)
    network, images = random_network(architecture), random_images(architecture)
    for name, weight in network.state_dict.items():
        if weight.ndim == 1 and name.endswith("weight"):
            weight.abs_()  # no negative factor before a max-pool
    for integer in (integer_network(network, images), None):
        counted = footprint(architecture, "float32" if integer is None else "int8")
        size = write_c(tmp_path, network, images, integer).size
        assert replace(counted, reserve=0) == size


def test_memory_is_one_map_in_and_one_out() -> None:
    """Beside hand counts: 8x10x10 out of the image, 8x10x10 + 4x5x5 for the separable block and its pool."""
    plan = make_plan(fold(random_network(Architecture.parse("1x12x12: 8v s4 M 6k1 G C"))).operations, floats=True)
    assert [stage.map_shape for stage in plan.stages] == [(8, 10, 10), (4, 5, 5), (6, 5, 5)]
    assert plan.arena == 8 * 100 + 4 * 25
    assert plan.ram(1) == plan.arena + 2 * 8 + 4 * 6


def test_a_residual_takes_no_memory() -> None:
    with_, without = (
        make_plan(fold(random_network(Architecture.parse(f"1x8x8: 4 4{residual} 4v G C"))).operations, floats=True)
        for residual in ("+", "")
    )
    assert with_.arena == without.arena


def test_the_example_reads_an_image(tmp_path: Path) -> None:
    for text, kind in ((ARCHITECTURES[0], "P5"), (ARCHITECTURES[3], "P6")):
        architecture = Architecture.parse(text)
        network, images = random_network(architecture), random_images(architecture, 3)
        write_c(tmp_path, network, images)
        need("make", "make")
        subprocess.run(["make", "-s", "-B", "-C", tmp_path, "CFLAGS=-Werror", "classify"], check=True)
        _, height, width = architecture.input_shape
        for image, number in zip(images, fold(network).run(images).argmax(1), strict=True):
            content = f"{kind}\n{width} {height}\n255\n".encode() + image.permute(1, 2, 0).numpy().tobytes()
            done = subprocess.run([tmp_path / "classify"], input=content, capture_output=True, check=True)
            assert done.stdout.decode() == f'"{number}" ??/é\\\n'
        other = b"P6" if kind == "P5" else b"P5"
        done = subprocess.run([tmp_path / "classify"], input=other + content[2:], capture_output=True, check=False)
        assert done.returncode == 1
        assert f"give a binary image ({kind}) of {width}x{height}" in done.stderr.decode()


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, int]:
    """The example, the pixels of an image whose first level is that of a line feed, and its class."""
    folder, architecture = tmp_path_factory.mktemp("classify"), Architecture.parse("1x9x8: 6v M 8 G C")
    network, images = random_network(architecture), random_images(architecture, 40)
    images[:, 0, 0, 0] = ord("\n")
    write_c(folder, network, images)
    sources = [folder / "main.c", folder / "nas_net.c"]
    subprocess.run([need("gcc", "gcc"), *SANITIZED, "-o", folder / "classify", *sources], check=True)
    logits = fold(network).run(images)
    best = int((logits.topk(2, dim=1).values @ torch.tensor([1.0, -1.0])).argmax())
    return folder / "classify", images[best].numpy().tobytes(), int(logits[best].argmax())


@pytest.mark.parametrize(
    "header",
    [
        b"P5\n8 9\n255\n", b"P5 8 9 255 ", b"P5\t8\v9\f255\r", b"P5\r\n8 9\r\n255\r\n", b"P5\n\n  8\r\r9 \n 255\t",
        b"P5\n# by a camera: 3 4 255\n8 9\n255\n", b"P5#\r\n#a\r\n8# width\n#height\n9\n#levels\n255\n",
        b"P5\r\n# a\r\n8 9\r\n# b\r\n255\r\n", b"P5 08 009 0255\n", b"P5\n8 9\n255#end\n",
    ],
)  # fmt: skip
def test_the_example_reads_any_header_of_a_pgm(classify, header: bytes) -> None:
    """Also where its lines end in two characters, the second of which is no pixel; another image may follow."""
    program, pixels, number = classify
    follows = [b""] if header.endswith(b"\r") else [b"", b"P5 8 9 255 another image"]
    for more in follows:
        done = subprocess.run([program], input=header + pixels + more, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode() == f'"{number}" ??/é\\\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "255 on standard input\n"), (b"P", "input\n"), (b"P5", "input\n"), (b"P5#", "input\n"),
        (b"P2\n8 9\n255\n" + b"1 " * 72, "input\n"), (b"P5 -8 9 255\n", "input\n"), (b"P5 8 9 255", "input\n"),
        (b"P5 8 9 255x", "input\n"), (b"P5\n9 8\n255\n" + bytes(72), "not of 9x8 up to 255"),
        (b"P5\n8 9\n15\n" + bytes(72), "not of 8x9 up to 15"),
        (b"P5\n8 9\n65535\n" + bytes(144), "not of 8x9 up to 65535"),
        (b"P5\n8 9\n" + b"9" * 5000 + b"\n", "not of 8x9 up to 999999"),
        (b"P5\n8 9\n255\n" + bytes(71), "ends before its last pixel"), (b"\x89PNG\r\n", "input\n"),
    ],
)  # fmt: skip
def test_the_example_refuses_what_is_no_such_image_in_one_line(classify, content: bytes, words: str) -> None:
    done = subprocess.run([classify[0]], input=content, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert words in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_a_target_that_does_not_fit_is_named(tmp_path: Path) -> None:
    architecture = Architecture.parse("1x2x2: 70000k1 G C1")
    with pytest.raises(UsageError, match="up to 65,535 channels, not 70,000"):
        write_c(tmp_path, random_network(architecture), random_images(architecture))
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_or_lacks_is_told(tmp_path: Path) -> None:
    (tmp_path / "nas_net.c").write_text("int x = ;\n")
    assert compiled_size(tmp_path, ("no-such-compiler",)) is None
    need("gcc", "gcc")
    with pytest.raises(StorageError, match=r"gcc fails on the exported C code: .*error"):
        compiled_size(tmp_path, ("gcc",))


@pytest.mark.parametrize(
    ("shape", "classes", "words"),
    [
        ((1, 28, 28), DATASETS["mnist"].classes, "Light on a dark ground: digits 20 pixels high or wide, their centre"),
        ((1, 28, 28), DATASETS["kmnist"].classes, "Light on a dark ground."),
        ((3, 32, 32), DATASETS["cifar10"].classes, ""),
        ((1, 28, 28), tuple("abcdefghij"), ""),
    ],
)
def test_the_header_says_how_images_of_mnist_and_its_relatives_look(shape, classes, words):
    made = replace(random_network(Architecture.parse(f"{'x'.join(map(str, shape))}: 4 G C")), classes=classes)
    text = _header(fold(made), None)
    assert f"Not normalised.{words and f'{chr(10)}   {words}'}" in text
    assert ("dark ground" in text) == bool(words)
