"""Named TOML files: the shipped recipes, and files that are refused."""

from __future__ import annotations

import pytest

from alexnet_edge.errors import AlexnetEdgeError, TableError
from alexnet_edge.quantize.calibrate import CalibrationSettings
from alexnet_edge.quantize.recipe import load_recipe
from alexnet_edge.recipes import list_named, read_named

SHIPPED = sorted(list_named("recipe"))


@pytest.fixture
def write(tmp_path):
    """Write a TOML file and return its path as the option takes it."""

    def write(text, encoding="utf-8"):
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding=encoding)
        return str(path)

    return write


@pytest.mark.parametrize("kind", ["recipe", "profile"])
def test_shipped_files_are_listed_by_name(kind):
    found = list_named(kind)
    assert found
    assert all(path.suffix == ".toml" and path.stem == name for name, path in found.items())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_load_and_describe_themselves(name):
    assert isinstance(load_recipe(name), CalibrationSettings)
    described = read_named("recipe", name, keys=["description", *vars(CalibrationSettings())])
    assert described["description"]


def test_default_recipe_takes_256_images():
    assert load_recipe("default").max_images == 256


def test_what_a_recipe_leaves_out_is_the_default(write):
    assert load_recipe(write("max_images = 5")) == CalibrationSettings(max_images=5)
    assert load_recipe(write("")) == CalibrationSettings()


def test_share_of_bad_images_may_be_a_fraction(write):
    assert load_recipe(write("max_bad = 0.25")).max_bad == 0.25


def test_unknown_name_is_refused_beside_those_there_are():
    with pytest.raises(TableError, match="recipe 'best' is unknown") as refused:
        load_recipe("best")
    assert all(name in refused.value.hint for name in SHIPPED)


def test_folder_is_no_recipe(tmp_path):
    with pytest.raises(TableError, match="is unknown"):
        load_recipe(str(tmp_path))


def test_unknown_key_is_refused_beside_those_there_are(write):
    with pytest.raises(TableError, match="unknown key 'max_image'") as refused:
        load_recipe(write("max_image = 5"))
    assert "max_images" in refused.value.hint


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('max_images = "all"', "max_images"),
        ("max_images = 2.5", "max_images"),
        ("max_images = true", "max_images"),
        ("max_images = 0", "max_images"),
        ("batch_size = -1", "batch_size"),
        ("workers = 0", "workers"),
        ('max_bad = "few"', "max_bad"),
        ("max_bad = -0.5", "max_bad"),
        ("max_bad = nan", "max_bad"),
        ("seed = -1", "seed"),
    ],
)
def test_value_that_cannot_be_is_refused_by_key_and_file(write, text, key):
    path = write(text)
    with pytest.raises(TableError, match=f"{key} is") as refused:
        load_recipe(path)
    assert path in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize("text", ["max_images = ", "= 5", "[x", "max_images = 1\nmax_images = 2"])
def test_file_that_is_no_toml_is_named(write, text):
    with pytest.raises(TableError, match=r"mine\.toml: is not TOML"):
        load_recipe(write(text))


def test_file_in_another_encoding_is_refused(write):
    with pytest.raises(AlexnetEdgeError, match="is not TOML"):
        load_recipe(write('description = "für"', encoding="latin-1"))
