"""Every target is written whole, checked, and the network; what cannot be made leaves nothing behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from exports import RECIPE as FOREIGN_RECIPE
from exports import images, network, one_line

import nas
from nas.architecture import Architecture
from nas.data import Split
from nas.errors import StorageError, UsageError
from nas.export import ExportSource, export_targets, load_onnx, parse_targets
from nas.export import targets as module
from nas.export.c_check import check_c, find_compiler
from nas.export.program import PROGRAM_FILE, check_program, export_program
from nas.export.script import check_script, script
from nas.train import Recipe

SMALL = Architecture.parse("1x12x12: 4vr s6v 6+ M 8 G C")
COLOUR = Architecture.parse("3x10x9: 4 s6/2r M 6k1b C G")
RECIPE = vars(Recipe(epochs=3, teacher="8 G C"))


def origin(architecture: Architecture = SMALL, **changes) -> ExportSource:
    pictures = images(architecture, 40)
    labels = torch.arange(40) % architecture.num_classes
    fields = {
        "network": network(architecture), "dataset": "mnist", "recipe": RECIPE, "calibration": pictures,
        "images": Split(pictures, labels), "split": "validation",
    } | changes  # fmt: skip
    return ExportSource(**fields)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("all") / "out"
    export_targets(folder, origin(), parse_targets("all"))
    return folder


def test_every_target_is_there_with_what_was_checked(exported):
    stated = json.loads((exported / "export.json").read_text())
    assert list(stated["targets"]) == ["onnx", "torch", "int8", "c", "script"]
    assert stated["checked_on"] == {"split": "validation", "images": 40, "trained_on": False}
    files = {"architecture.txt", "architecture.json", "export.json"}
    files |= {name for target in stated["targets"].values() for name in target["files"]}
    assert {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()} == files
    for target in ("onnx", "torch"):
        assert stated["targets"][target]["largest_difference"] < 1e-4
    assert stated["targets"]["int8"]["images"] == 40


def test_each_graph_predicts_as_the_network_does(exported):
    trained, pictures = network(SMALL), images(SMALL, 20)
    expected = trained.predict(pictures)
    for name in ("model", "model-batch1", "model-raw", "model-probabilities"):
        found = load_onnx(exported / f"{name}.onnx")
        assert found.classes == trained.classes
        torch.testing.assert_close(found.predict(pictures), expected, atol=1e-4, rtol=0)
    int8 = load_onnx(exported / "model-int8.onnx")
    assert int8.normalization is None
    assert int8.predict(pictures).shape == expected.shape


def test_every_graph_takes_images(exported):
    paths = sorted(exported.glob("*.onnx"))
    assert len(paths) == 6
    assert {each.name for path in paths for each in onnx.load(path).graph.input} == {"images"}
    assert torch.export.load(str(exported / PROGRAM_FILE)).graph_signature.user_inputs == ("images",)


def test_the_graph_of_probabilities_takes_bytes_and_names_its_classes(exported):
    proto = onnx.load(exported / "model-probabilities.onnx")
    (taken,), (given,) = proto.graph.input, proto.graph.output
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert given.name == "probabilities"
    assert [node.op_type for node in proto.graph.node][-2:] == ["Flatten", "Softmax"]
    properties = {item.key: item.value for item in proto.metadata_props}
    assert json.loads(properties["classes"]) == list("0123456789")
    assert properties["input_scaling"].startswith("uint8")


def test_the_program_and_the_weights_load_without_nas(exported):
    pictures = images(SMALL, 5)
    expected = network(SMALL).predict(pictures)
    program = torch.export.load(str(exported / PROGRAM_FILE)).module()
    torch.testing.assert_close(program(pictures / 255).softmax(1), expected, atol=1e-4, rtol=0)
    namespace = {"__name__": "model"}
    exec((exported / "model.py").read_text(), namespace)
    net = namespace["load"](exported / "weights.safetensors")
    torch.testing.assert_close(net(pictures).softmax(1), expected, atol=1e-4, rtol=0)


def test_the_script_trains_alone(exported):
    """Only torch and torchvision: the interpreter sees no nas."""
    code = (
        "import sys; sys.modules['nas'] = sys.modules['numba'] = None\nimport train, torch\n"
        "images = torch.randint(0, 256, (20, 1, 12, 12), dtype=torch.uint8)\n"
        "labels = torch.arange(20) % 10\n"
        "network, accuracies = train.train(images, labels, images, labels, epochs=2)\n"
        "assert len(accuracies) == 2\n"
        "torch.save(network.state_dict(), 'trained.pt')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=exported, capture_output=True, text=True, check=False)
    (exported / "trained.pt").unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"seed 0: last-2 test accuracy [\d.]+ %", done.stdout)


def test_the_script_states_what_it_is_not(exported):
    text = (exported / "train.py").read_text()
    header = text.split('"""')[1]
    assert "SOAP" in header
    assert "distillation" in header
    assert "not measured; run it with --seed 0, 1 and 2" in " ".join(header.split())
    assert "SOAP" not in text.split('"""', 2)[2]
    assert "@" not in text.replace("@torch.no_grad", "")
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("dataset", ["fashion-mnist", "emnist-digits", "cifar10"])
def test_a_script_for_every_set_of_torchvision(dataset, tmp_path):
    architecture = COLOUR if dataset == "cifar10" else SMALL
    (tmp_path / "train.py").write_text(script(network(architecture), dataset, RECIPE))
    pictures = images(architecture, 8)
    trained = network(architecture)
    logits = trained.module()(trained.normalization.apply(pictures)).detach()
    check_script(tmp_path / "train.py", trained, pictures, logits)
    with pytest.raises(StorageError, match="does not give the logits"):
        check_script(tmp_path / "train.py", trained, pictures, logits + 1)


@pytest.mark.parametrize(
    ("dataset", "recipe", "reason"),
    [
        ("synthetic", RECIPE, "torchvision, which has no 'synthetic'"),
        ("mnist", FOREIGN_RECIPE, "unknown key 'clip' in a recipe"),
    ],
)
def test_a_script_that_cannot_be_is_refused_before_anything_is_written(dataset, recipe, reason, tmp_path):
    with pytest.raises(UsageError, match=reason) as error:
        export_targets(tmp_path / "new" / "out", origin(dataset=dataset, recipe=recipe), ["onnx", "script"])
    one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_an_exporter_cannot_take_leaves_the_folder_as_it_was(tmp_path):
    export_targets(tmp_path / "out", origin(), ["onnx"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    wide = Architecture.parse("1x2x2: 70000k1 G C1")
    with pytest.raises(UsageError, match="65,535 channels") as error:
        export_targets(tmp_path / "out", origin(wide), ["onnx", "c"])
    one_line(error)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_check_leaves_nothing(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise StorageError("a logit\ndiffers")

    monkeypatch.setattr(module, "check_onnx", fails)
    with pytest.raises(StorageError, match="a logit differs"):
        export_targets(tmp_path / "out", origin(), ["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_files_is_not_deleted(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="holds other files"):
        export_targets(tmp_path, origin(), ["onnx"])
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_export_replaces_itself_alone(tmp_path):
    """All targets that are there, and no file that a user has put beside them."""
    out = tmp_path / "out"
    export_targets(out, origin(), ["torch", "onnx"])
    export_targets(out, origin(), ["onnx", "torch", "script"])
    (out / "__pycache__").mkdir()
    with pytest.raises(StorageError, match="holds an export to torch, script too, which would be deleted"):
        export_targets(out, origin(), ["onnx"])
    (out / "model-seed0.pt").write_text("mine")
    with pytest.raises(StorageError, match=r"holds model-seed0\.pt, which no export wrote"):
        export_targets(out, origin(), ["onnx", "torch", "script"])
    assert (out / "model-seed0.pt").read_text() == "mine"
    (out / "model-seed0.pt").unlink()
    edited = (out / "model.py").read_text() + "# mine\n"
    (out / "model.py").write_text(edited)
    with pytest.raises(StorageError, match=r"holds model\.py, which was changed after the export wrote it"):
        export_targets(out, origin(), ["onnx", "torch", "script"])
    assert (out / "model.py").read_text() == edited
    stated = json.loads((out / "export.json").read_text())
    del stated["digests"]  # an earlier version wrote none
    (out / "export.json").write_text(json.dumps(stated))
    export_targets(out, origin(), ["onnx", "torch", "script"])
    (out / "export.json").write_text(json.dumps({**stated, "digests": 3}))
    with pytest.raises(StorageError, match="does not name the files"):
        export_targets(out, origin(), ["onnx", "torch", "script"])
    (out / "export.json").write_text('{"targets": 3}')
    with pytest.raises(StorageError, match="does not name the files"):
        export_targets(out, origin(), ["onnx", "torch", "script"])


def test_all_that_every_target_writes_is_listed(exported):
    export_targets(exported, origin(), parse_targets("all"))


@pytest.mark.parametrize(
    ("text", "targets"),
    [("c, ONNX", ("onnx", "c")), ("all", ("onnx", "torch", "int8", "c", "script")), ("torch,torch", ("torch",))],
)
def test_targets_are_a_list_of_names(text, targets):
    assert parse_targets(text) == targets


@pytest.mark.parametrize(("text", "reason"), [("onnx,tflite", "no export target 'tflite'"), (" , ", "name what to")])
def test_an_unknown_target_is_named(text, reason):
    with pytest.raises(UsageError, match=reason):
        parse_targets(text)


def test_a_program_of_another_network_is_refused(tmp_path):
    export_program(tmp_path / "model.pt2", network(SMALL, seed=1))
    pictures, trained = images(SMALL, 3), network(SMALL)
    logits = trained.module()(trained.normalization.apply(pictures)).detach()
    with pytest.raises(StorageError, match="a logit differs"):
        check_program(tmp_path / "model.pt2", trained, pictures, logits)
    (tmp_path / "model.pt2").write_bytes(b"no program")
    with pytest.raises(StorageError, match="damaged"):
        check_program(tmp_path / "model.pt2", trained, pictures, logits)


def test_c_code_that_is_not_the_network_is_refused(exported):
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc")
    pictures, trained = images(SMALL, 3), network(SMALL)
    logits = trained.module()(trained.normalization.apply(pictures)).detach()
    assert check_c(exported / "c-float32", pictures, logits, compiler) < 1e-3
    with pytest.raises(StorageError, match="C code is not the model"):
        check_c(exported / "c-float32", pictures, logits + 1, compiler)


@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_a_file_that_is_no_export_is_named(content, tmp_path):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(StorageError, match=r"a\.onnx"):
        load_onnx(tmp_path / "a.onnx")
    with pytest.raises(StorageError, match="no file"):
        load_onnx(tmp_path / "missing.onnx")


def test_a_graph_takes_images_of_its_own_shape_only(exported):
    with pytest.raises(UsageError, match="takes images"):
        load_onnx(exported / "model.onnx").predict(torch.zeros(1, 1, 5, 5, dtype=torch.uint8))


def test_a_network_is_loaded_from_every_form(exported, tmp_path):
    trained, pictures = network(SMALL), images(SMALL, 20)
    expected = trained.predict(pictures)
    for path in (exported, exported / "model.onnx", exported / "model-raw.onnx", exported / "model-probabilities.onnx"):
        found = nas.load_network(path)
        torch.testing.assert_close(found.predict(pictures), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.predict(pictures.numpy() / 255.0), expected, atol=1e-4, rtol=0)
        with pytest.raises(UsageError, match="images"):
            found.predict(pictures.int())
    whole, floats = (
        nas.load_network(exported / "model-int8.onnx").predict(each) for each in (pictures, pictures / 255)
    )
    assert (whole == floats).all()
    for targets in (["int8"], ["onnx"]):
        export_targets(tmp_path / targets[0], origin(), targets)
        assert nas.load_network(tmp_path / targets[0]).classes == trained.classes
    export_targets(tmp_path / "script", origin(), ["script"])
    with pytest.raises(StorageError, match="export it to torch, onnx or int8"):
        nas.load_network(tmp_path / "script")
    with pytest.raises(StorageError, match="no file"):
        nas.load_network(tmp_path / "missing.onnx")
