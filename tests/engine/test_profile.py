"""Target boards: the shipped profiles, and files that are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from alexnet_edge.engine.build import RUNTIMES, BuildSettings
from alexnet_edge.engine.profile import PRECISIONS, BatchRange, Dla, Profile, load_profile
from alexnet_edge.engine.target import TargetFacts
from alexnet_edge.engine.versions import VersionRange
from alexnet_edge.errors import BuildError, TableError
from alexnet_edge.recipes import list_named

SHIPPED = sorted(list_named("profile"))
DLA = [name for name in SHIPPED if name.endswith("-dla")]
BOARDS = [
    "agx-orin", "agx-xavier", "nano", "orin-nano", "orin-nx", "thor", "tx2", "xavier-nx", *DLA,
]  # fmt: skip
ORIN = TargetFacts(compute_capability=(8, 7), jetpack=(6, 2), tensorrt=(10, 3, 0, 30))


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


@pytest.mark.parametrize(("name", "gpu"), [("nano", "Maxwell"), ("tx2", "Pascal")])
def test_boards_without_int8_say_why(name, gpu):
    with pytest.raises(BuildError, match=rf"INT8.*{gpu}|{gpu}.*INT8") as refused:
        load_profile(name).require_precision("int8")
    assert refused.value.hint == "build with --fp16"


def test_every_board_that_is_promised_has_a_profile():
    assert set(SHIPPED) == {*BOARDS, "cpu", "datacenter", "rtx-desktop"}
    assert DLA == ["agx-orin-dla", "agx-xavier-dla", "orin-nx-dla", "xavier-nx-dla"]


@pytest.mark.parametrize("name", BOARDS)
def test_boards_state_what_a_build_and_a_roofline_need(name):
    profile = load_profile(name)
    assert profile.runtime == "tensorrt"
    assert len(profile.compute_capability) == 1
    assert profile.jetpack is not None
    assert profile.tensorrt is not None
    assert 20 < profile.memory_bandwidth_gbs < 300
    assert profile.workspace_mib >= 256
    assert profile.power_modes
    assert all(watts is None or 5 <= watts <= 130 for watts in profile.power_modes.values())


@pytest.mark.parametrize("name", BOARDS)
def test_readme_states_what_the_profile_does(name):
    readme = Path(__file__).parents[2] / "engines/README.md"
    (row,) = [line for line in readme.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    profile = load_profile(name)
    precisions = ", ".join(precision.upper() for precision in profile.precisions)
    facts = (precisions, profile.jetpack, profile.tensorrt, f"{profile.memory_bandwidth_gbs:g}")
    assert row.endswith(f"| {' | '.join(map(str, facts))} |")


@pytest.mark.parametrize("name", DLA)
def test_dla_is_the_board_without_fp32_at_batch_1(name):
    profile, board = load_profile(name), load_profile(name.removesuffix("-dla"))
    assert profile.dla == Dla(2)
    assert board.dla is None
    assert profile.precisions == ("fp16", "int8")
    assert profile.batch == BatchRange(1, 1, 1)
    for field in ("compute_capability", "memory_bandwidth_gbs", "power_modes", "workspace_mib"):
        assert getattr(profile, field) == getattr(board, field)
    assert profile.tensorrt.low == board.tensorrt.low
    assert (10, 8) not in profile.tensorrt


@pytest.mark.parametrize(("name", "count"), [("rtx-desktop", 6), ("datacenter", 8), ("cpu", 0)])
def test_profiles_of_many_gpus_list_them_and_give_no_bandwidth(name, count):
    profile = load_profile(name)
    assert len(profile.compute_capability) == count
    assert profile.memory_bandwidth_gbs is None
    assert profile.jetpack is None


def test_file_is_read_by_its_path(write):
    path = write('runtime = "tensorrt"\nbatch = { max = 16 }\nworkspace_mib = 64\n')
    assert load_profile(path) == Profile(
        name=path, runtime="tensorrt", batch=BatchRange(1, 1, 16), workspace_mib=64
    )


def test_every_key_is_read(write):
    path = write(
        """
        description = "a board"
        runtime = "tensorrt"
        precisions = ["fp16"]
        unsupported = { int8 = "why not" }
        compute_capability = ["8.7", "9.0"]
        jetpack = ">=6.1,<7"
        tensorrt = ">=10.3"
        memory_bandwidth_gbs = 100
        dla = { cores = 1 }
        [power_modes]
        15W = 15
        MAXN = "uncapped"
        """
    )
    assert load_profile(path) == Profile(
        name=path,
        description="a board",
        runtime="tensorrt",
        precisions=("fp16",),
        unsupported={"int8": "why not"},
        compute_capability=((8, 7), (9,)),
        jetpack=VersionRange((6, 1), (7,)),
        tensorrt=VersionRange((10, 3)),
        memory_bandwidth_gbs=100.0,
        power_modes={"15W": 15.0, "MAXN": None},
        dla=Dla(1),
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
        ("precisions = []", "precisions is []"),
        ('runtime = "tensortr"', "runtime is 'tensortr', one of onnxruntime"),
        ("description = 7", "description is 7"),
        ("compute_capability = 8.7", "compute_capability is 8.7"),
        ('compute_capability = ["8.7", 9]', "compute_capability"),
        ('compute_capability = "new"', "'new' is no version"),
        ('jetpack = "6.2"', "a range like >=8.5.2,<11 is expected"),
        ('tensorrt = ">=11,<8.5"', "no version lies in it"),
        ("tensorrt = 10.3", "tensorrt is 10.3"),
        ("memory_bandwidth_gbs = 0", "above 0"),
        ("memory_bandwidth_gbs = inf", "above 0"),
        ("memory_bandwidth_gbs = nan", "above 0"),
        ("memory_bandwidth_gbs = true", "memory_bandwidth_gbs"),
        ("workspace_mib = true", "workspace_mib"),
        ("workspace_mib = 2.5", "workspace_mib"),
        ("power_modes = 15", "power_modes"),
        ("power_modes = { MAXN = 'none' }", "power_modes"),
        ("power_modes = { MAXN = -1 }", "power_modes"),
        ("dla = 2", "dla"),
        ("dla = {}", "dla"),
        ("dla = { cores = 0 }", "dla"),
        ("dla = { cores = 2, version = 1 }", "dla"),
        ("unsupported = { int4 = 'x' }", "unsupported"),
        ("unsupported = { int8 = 1 }", "unsupported"),
        ("unsupported = { fp16 = 'x' }", "fp16 is in precisions and in unsupported"),
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


def test_machine_that_is_the_board_is_accepted():
    load_profile("orin-nano").require_machine(ORIN)
    load_profile("datacenter").require_machine(
        TargetFacts(compute_capability=(9,), tensorrt=(11, 4, 1))
    )


@pytest.mark.parametrize(
    ("name", "facts", "said"),
    [
        (
            "orin-nano",
            dataclasses.replace(ORIN, compute_capability=(9,)),
            "compute_capability: expected 8.7, found 9.0",
        ),
        (
            "orin-nano",
            dataclasses.replace(ORIN, jetpack=(4, 6, 1)),
            "jetpack: expected >=5.1.1,<8, found 4.6.1",
        ),
        (
            "orin-nano",
            dataclasses.replace(ORIN, tensorrt=(11, 4, 1)),
            "tensorrt: expected >=8.5.2,<11, found 11.4.1",
        ),
        ("orin-nx-dla", dataclasses.replace(ORIN, tensorrt=(10, 16, 2)), "found 10.16.2"),
        ("datacenter", TargetFacts(compute_capability=(7,)), "expected 7.5 or 8.0 or 8.6"),
        ("rtx-desktop", TargetFacts(tensorrt=(1, 3)), "tensorrt: expected >=1.4,<2, found 1.3"),
    ],
)
def test_machine_that_is_another_is_refused_with_what_differs(name, facts, said):
    with pytest.raises(BuildError) as refused:
        load_profile(name).require_machine(facts)
    assert said in refused.value.message
    assert f"profile {name} does not describe this machine" in refused.value.message
    assert refused.value.message.count("expected") == 1
    assert "--profile" in refused.value.hint


def test_all_that_differs_is_named_at_once():
    with pytest.raises(BuildError) as refused:
        load_profile("thor").require_machine(ORIN)
    for field in ("compute_capability", "jetpack", "tensorrt"):
        assert f"{field}: expected" in refused.value.message


@pytest.mark.parametrize("name", SHIPPED)
def test_what_a_machine_does_not_tell_is_not_held_against_it(name):
    load_profile(name).require_machine(TargetFacts())


def test_rtx_builds_ahead_of_time_on_any_machine():
    facts = TargetFacts(compute_capability=(9,), jetpack=(4, 6), tensorrt=(1, 7, 1, 116))
    load_profile("rtx-desktop").require_machine(facts)
