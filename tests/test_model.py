"""The layer tables, and checkpoints: what is read, what is refused, and that nothing is run."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.errors import AlexnetEdgeError, CheckpointError, InputError
from alexnet_edge.model import (
    ARCHITECTURES,
    Architecture,
    Checkpoint,
    build_module,
    load_checkpoint,
    read_extra,
    save_checkpoint,
)
from alexnet_edge.preprocess import PreprocessSpec

# torch warns of the pickles that these tests damage.
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

NARROW = Architecture("alexnet", classes=3, width=0.03)
CLASSES = ("cat", "dog", "owl")
SUFFIXES = (".pt", ".pth", ".safetensors")


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return build_module(NARROW).state_dict()


@pytest.fixture
def saved(tmp_path, weights):
    """Return a function that saves a changed copy of the weights as a bare state dict."""

    def save(change=lambda weights: None):
        changed = dict(weights)
        path = tmp_path / "saved.pt"
        torch.save(change(changed) or changed, path)
        return path

    return save


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("alexnet", 62_378_344), ("torchvision", 61_100_840), ("caffe", 60_965_224)],
)
def test_published_networks_have_their_published_parameter_counts(name, parameters):
    assert Architecture(name).parameters == parameters


def test_alexnet_has_the_layer_shapes_of_the_paper():
    outputs = [s.output for s in Architecture().shapes() if s.layer.op in {"conv", "maxpool"}]
    assert outputs == [
        (96, 55, 55), (96, 27, 27), (256, 27, 27), (256, 13, 13),
        (384, 13, 13), (384, 13, 13), (256, 13, 13), (256, 6, 6),
    ]  # fmt: skip
    linear = [s.output for s in Architecture().shapes() if s.layer.op == "linear"]
    assert linear == [(4096,), (4096,), (1000,)]


def test_alexnet_takes_a_billion_multiply_accumulates():
    assert sum(s.macs for s in Architecture().shapes()) == pytest.approx(1.135e9, rel=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_has_eight_layers_that_learn(name):
    assert sum(bool(s.weight) for s in Architecture(name).shapes()) == 8


@pytest.mark.parametrize(
    ("name", "groups", "norms"),
    [("alexnet", [1] * 5, 0), ("torchvision", [1] * 5, 0), ("caffe", [1, 2, 1, 2, 2], 2)],
)
def test_only_caffe_has_groups_and_response_normalization(name, groups, norms):
    layers = Architecture(name).layers()
    assert [layer.groups for layer in layers if layer.op == "conv"] == groups
    assert sum(layer.op == "lrn" for layer in layers) == norms


@pytest.mark.parametrize("width", [0.01, 0.03, 0.125, 0.3, 1.0, 1.5])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_module_has_the_parameters_of_the_table(name, width):
    architecture = Architecture(name, classes=7, width=width)
    with torch.device("meta"):
        module = build_module(architecture)
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    assert shapes == architecture.parameter_shapes()
    assert sum(p.numel() for p in module.parameters()) == architecture.parameters


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_module_has_the_layer_outputs_of_the_table(name):
    architecture = Architecture(name, classes=7, width=0.03)
    module = build_module(architecture).eval()
    found = {}
    for path, child in module.named_modules():
        child.register_forward_hook(lambda _m, _i, out, path=path: found.update({path: out.shape}))
    logits = module(torch.zeros(2, 3, architecture.input_size, architecture.input_size))
    assert logits.shape == (2, 7)
    expected = {s.layer.name: (2, *s.output) for s in architecture.shapes()}
    del expected["flatten"]
    assert {name: tuple(found[name]) for name in expected} == expected


def test_parameter_names_are_torchvisions():
    names = set(Architecture("torchvision").parameter_shapes())
    layers = ("features.0", "features.3", "features.6", "features.8", "features.10",
              "classifier.1", "classifier.4", "classifier.6")  # fmt: skip
    assert names == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "vgg"}, "'vgg'"),
        ({"classes": 1}, "1 classes"),
        ({"width": 0.0}, "width is 0.0"),
        ({"width": float("nan")}, "width is nan"),
    ],
)
def test_impossible_architectures_are_refused(arguments, named):
    with pytest.raises(InputError, match=named) as caught:
        Architecture(**arguments)
    assert caught.value.hint


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_checkpoint_survives_a_round_trip(tmp_path, weights, suffix):
    path = tmp_path / f"net{suffix}"
    spec = PreprocessSpec(resize=240, mean=(0.5, 0.4, 0.3))
    save_checkpoint(path, Checkpoint(NARROW, weights, CLASSES, spec))
    loaded = load_checkpoint(path)
    assert_same_weights(loaded.state_dict, weights)
    assert (loaded.architecture, loaded.classes, loaded.preprocess) == (NARROW, CLASSES, spec)
    assert loaded.sha256 == sha256_file(path)


def test_samples_and_extras_survive_a_round_trip(tmp_path, weights):
    samples = torch.randint(0, 256, (2, 227, 227, 3), dtype=torch.uint8)
    path = tmp_path / "net.pt"
    save_checkpoint(path, Checkpoint(NARROW, weights, samples=samples), training={"step": 4})
    assert torch.equal(load_checkpoint(path).samples, samples)
    assert read_extra(path, "training") == {"step": 4}
    assert read_extra(path, "other") is None


def test_the_same_checkpoint_is_the_same_file(tmp_path, weights):
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path in paths:
        save_checkpoint(path, Checkpoint(NARROW, weights, CLASSES))
    assert sha256_file(paths[0]) == sha256_file(paths[1])


def test_preprocessing_defaults_to_the_networks_input():
    assert Checkpoint(NARROW, {}).default_preprocess() == PreprocessSpec(256, 227)
    assert Checkpoint(Architecture("torchvision"), {}).default_preprocess().crop == 224
    spec = PreprocessSpec(300, 227)
    assert Checkpoint(NARROW, {}, preprocess=spec).default_preprocess() is spec


@pytest.mark.parametrize("width", [0.03, 0.125, 0.5])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_width_and_classes_are_inferred_from_a_bare_state_dict(tmp_path, name, width):
    architecture = Architecture(name, classes=5, width=width)
    shapes = architecture.parameter_shapes()
    torch.save({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "bare.pt")
    loaded = load_checkpoint(tmp_path / "bare.pt")
    assert (loaded.architecture.name, loaded.architecture.classes) == (name, 5)
    assert loaded.architecture.parameter_shapes() == shapes
    assert (loaded.classes, loaded.preprocess, loaded.samples) == (None, None, None)


@pytest.mark.parametrize("wrap", [dict, lambda weights: {"state_dict": weights}])
@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "_orig_mod."])
def test_prefixes_of_wrappers_are_stripped(saved, weights, prefix, wrap):
    path = saved(lambda w: wrap({prefix + name: tensor for name, tensor in w.items()}))
    assert_same_weights(load_checkpoint(path).state_dict, weights)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_float_become_float32(saved, weights, kind):
    loaded = load_checkpoint(saved(lambda w: {k: t.to(kind) for k, t in w.items()}))
    assert_same_weights(loaded.state_dict, {k: t.to(kind).float() for k, t in weights.items()})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda w: w.update({"features.3.weight": torch.zeros(8, 2, 3, 3)}),
            r"is alexnet, but features\.3\.weight is \(8, 2, 3, 3\), expected \(8, 2, 5, 5\)",
        ),
        (lambda w: w.pop("features.6.bias") is None, r"features\.6\.bias is missing"),
        (lambda w: w.pop("classifier.1.bias") is None, r"classifier\.1\.bias is missing"),
        (lambda w: w.pop("classifier.6.bias") is None, r"classifier\.6\.bias is missing"),
        (lambda w: w.update({"features.99.weight": torch.zeros(1)}), "99.weight is unexpected"),
        (lambda w: w.update({"classifier.6.bias": torch.tensor(1.0)}), r"classifier\.6\.bias is"),
        (lambda w: w.clear(), r"features\.0\.weight is missing"),
    ],
    ids=["wrong shape", "missing", "missing fc6 bias", "missing fc8 bias", "extra", "scalar",
         "empty"],
)  # fmt: skip
def test_weights_that_fit_no_network_are_refused_naming_the_first_mismatch(saved, change, named):
    with pytest.raises(CheckpointError, match=named) as caught:
        load_checkpoint(saved(change))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "tensor", "named"),
    [
        ("features.0.bias", torch.full((2,), float("nan")), "NaN or infinity"),
        ("features.0.bias", torch.tensor([0.0, float("inf")]), "NaN or infinity"),
        ("features.0.bias", torch.full((2,), 1e300, dtype=torch.float64), "NaN or infinity"),
        ("features.0.bias", torch.zeros(2, dtype=torch.int8), r"torch\.int8"),
        ("features.0.bias", [0.0, 0.0], "is a list, not a tensor"),
        ("epoch", 3, "is a int, not a tensor"),
    ],
)
def test_weights_that_are_no_finite_floats_are_refused_by_name(saved, name, tensor, named):
    with pytest.raises(CheckpointError, match=f"'{name}'.*{named}"):
        load_checkpoint(saved(lambda w: w.update({name: tensor})))


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"classes": ["cat", "dog"]}, "names 2 classes, its last layer has 3"),
        ({"classes": 3}, "'classes' is no list"),
        ({"arch": "caffe"}, "is not caffe"),
        ({"arch": "resnet"}, "'resnet' is unknown"),
        ({"width": 50}, "width is 50"),
        ({"width": 0.5}, r"features\.0\.weight is \(2, 3, 11, 11\), expected \(48,"),
        ({"preprocess": {"crop": 227}}, r"preprocess\.color is missing"),
    ],
)
def test_descriptions_that_do_not_fit_the_weights_are_refused(saved, beside, named):
    with pytest.raises(InputError, match=named):
        load_checkpoint(saved(lambda weights: {"state_dict": weights, **beside}))


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("writer", ["torch", "torch, wrapped", "legacy", "pickle"])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path, weights, writer):
    path, trap = tmp_path / "evil.pt", tmp_path / "executed"
    content = {**weights, "features.0.weight": Malicious(trap)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        wrapped = {"state_dict": weights, "classes": Malicious(trap)}
        torch.save(
            wrapped if "wrapped" in writer else content, path,
            _use_new_zipfile_serialization=writer != "legacy",
        )  # fmt: skip
    with pytest.raises(CheckpointError, match="more than tensors"):
        load_checkpoint(path)
    assert not trap.exists()


def test_a_whole_pickled_module_is_refused_with_the_way_to_save_its_weights(tmp_path):
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match="whole modules") as caught:
        load_checkpoint(tmp_path / "module.pt")
    assert "torch.save(model.state_dict()" in caught.value.hint


@pytest.mark.parametrize("keep", [0.0, 0.0001, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_files_are_refused(tmp_path, weights, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    save_checkpoint(path, Checkpoint(NARROW, weights))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(CheckpointError, match=str(path)) as caught:
        load_checkpoint(path)
    assert caught.value.hint


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"weights\n", b"\x80\x02", b"PK\x03\x04", b"\x00" * 64])
def test_files_of_another_kind_are_refused(tmp_path, content, suffix):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "text", {"state_dict": 3}])
def test_objects_that_are_no_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="not a"):
        load_checkpoint(tmp_path / "net.pt")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_files_give_weights_or_an_error_of_ours(tmp_path, saved, edits):
    data = bytearray(saved().read_bytes())
    for position, byte in edits:
        data[position] = byte
    path = tmp_path / "damaged.pt"
    path.write_bytes(data)
    try:
        assert load_checkpoint(path).architecture.parameters > 0
    except AlexnetEdgeError as error:
        assert str(path) in error.message


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_what_is_no_file_is_refused_with_the_command_that_makes_one(tmp_path, make):
    make(tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"net\.pt") as caught:
        load_checkpoint(tmp_path / "net.pt")
    assert "alexnet-edge train" in caught.value.hint
