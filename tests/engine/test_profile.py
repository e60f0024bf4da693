"""Target boards: the shipped profiles, and files that are refused."""

from __future__ import annotations

import pytest

from alexnet_edge.engine.build import RUNTIMES, BuildSettings
from alexnet_edge.engine.profile import PRECISIONS, BatchRange, Profile, load_profile
from alexnet_edge.errors import BuildError, TableError
from alexnet_edge.recipes import list_named

SHIPPED = sorted(list_named("profile"))


@pytest.fixture
def write(tmp_path):
    """Write a profile's TOML and return its path as the option takes it."""

    def write(text):
        path = tmp_path / "board.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profiles_load(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description
    assert profile.runtime in RUNTIMES
    assert set(profile.unsupported) == set(PRECISIONS) - set(profile.precisions)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profiles_take_what_they_list(name):
    profile = load_profile(name)
    for precision in profile.precisions:
        BuildSettings(precision, profile.runtime, profile=profile)


@pytest.mark.parametrize(
    ("name", "precision"),
    [(name, precision) for name in SHIPPED for precision in load_profile(name).unsupported],
)
def test_what_a_board_cannot_do_is_refused_with_the_reason(name, precision):
    profile = load_profile(name)
    with pytest.raises(BuildError, match=f"profile {name} takes no {precision}") as refused:
        BuildSettings(precision, profile.runtime, profile=profile)
    assert profile.unsupported[precision] in refused.value.message
    assert refused.value.hint == f"build with --{profile.precisions[-1]}"


def test_the_first_jetson_nano_takes_no_int8():
    with pytest.raises(BuildError, match=r"Maxwell.*INT8"):
        load_profile("nano").require_precision("int8")


def test_file_is_read_by_its_path(write):
    path = write('runtime = "tensorrt"\nbatch = { max = 16 }\nworkspace_mib = 64\n')
    assert load_profile(path) == Profile(
        name=path, runtime="tensorrt", batch=BatchRange(1, 1, 16), workspace_mib=64
    )


def test_unknown_profile_is_named_beside_those_there_are():
    with pytest.raises(TableError, match="profile 'xavier-9000' is unknown") as refused:
        load_profile("xavier-9000")
    assert all(name in refused.value.hint for name in SHIPPED)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('runtme = "tensorrt"', "unknown key 'runtme'"),
        ("runtime = 5", "runtime is 5"),
        ('workspace_mib = "many"', "workspace_mib is 'many'"),
        ('unsupported = "int8"', "unsupported is 'int8'"),
        ('precisions = ["int4"]', "int4"),
        ("precisions = []", "precisions are"),
        ("batch = { largest = 4 }", "largest"),
        ("batch = { min = 4, opt = 2 }", "batch range is 4, 2, 8"),
        ("batch = { min = 0 }", "batch range is 0, 1, 8"),
        ('batch = { max = "8" }', "batch"),
        ("batch = 4", "batch"),
        ("batch = { max = 2.5 }", "batch"),
        ("precisions = 8", "precisions"),
        ("precisions = [[1]]", "precisions"),
        ("memory_bandwidth_gbs = 'fast'", "memory_bandwidth_gbs"),
        ("workspace_mib = -1", "workspace_mib"),
        ("runtime = ", "is not TOML"),
    ],
)
def test_malformed_profile_is_refused_by_name(write, text, said):
    path = write(text)
    with pytest.raises(TableError) as refused:
        load_profile(path)
    assert said in refused.value.message
    assert path in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 8), (1, 9, 8), (-1, -1, -1)])
def test_batch_range_in_another_order_is_refused(sizes):
    with pytest.raises(TableError, match="batch range") as refused:
        BatchRange(*sizes)
    assert "1 ≤ min ≤ opt ≤ max" in refused.value.hint
