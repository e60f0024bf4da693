"""Versions compare as numbers, and ranges hold what they say."""

from __future__ import annotations

import pytest

from alexnet_edge.engine.versions import VersionRange, format_version, parse_range, parse_version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("8.5.2", (8, 5, 2)),
        ("10.13.0.35.post1", (10, 13, 0, 35)),
        ("10.0.0b6", (10,)),
        ("8.5.0", (8, 5)),
        ("0.0", (0,)),
        (" 11 ", (11,)),
    ],
)
def test_version_is_the_numbers_that_it_begins_with(text, version):
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "v8.5", "latest", ".5"])
def test_text_without_a_number_is_no_version(text):
    with pytest.raises(ValueError, match="is no version"):
        parse_version(text)


@pytest.mark.parametrize(
    ("older", "newer"), [("8.5", "10.3"), ("8.5", "8.5.2"), ("10.3", "10.13"), ("1.7.1", "1.10")]
)
def test_later_is_larger_whatever_the_digits(older, newer):
    assert parse_version(older) < parse_version(newer)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=8.5.2,<11", ["8.5.2", "8.5.2.2", "10.16.2", "9"], ["8.5.1", "8.5", "11", "11.4.1"]),
        (">=10.13", ["10.13", "99"], ["10.3", "8.6"]),
        (" >= 8.2 , < 8.3 ", ["8.2", "8.2.1.8"], ["8.3", "8.0"]),
    ],
)
def test_range_holds_from_its_lower_end_up_to_the_upper(text, inside, outside):
    found = parse_range(text)
    assert [version for version in inside if parse_version(version) not in found] == []
    assert [version for version in outside if parse_version(version) in found] == []


@pytest.mark.parametrize("text", [">=8.5.2,<11", ">=10.13"])
def test_range_is_shown_as_it_is_written(text):
    assert str(parse_range(text)) == text


@pytest.mark.parametrize(
    "text", ["8.5", "==8.5", "<11", ">8.5", ">=8.5,<=11", ">=8.5 <11", ">=", ">=8.5,", ""]
)
def test_range_in_another_form_is_refused(text):
    with pytest.raises(ValueError, match=r">=8\.5\.2,<11"):
        parse_range(text)


@pytest.mark.parametrize("text", [">=11,<8.5", ">=8.5,<8.5", ">=8.5,<8.5.0"])
def test_range_that_nothing_lies_in_is_refused(text):
    with pytest.raises(ValueError, match="no version lies in it"):
        parse_range(text)


def test_version_is_shown_with_dots():
    assert format_version((8, 5, 2)) == "8.5.2"
    assert str(VersionRange((8, 5))) == ">=8.5"
