"""Image sets, sampling, the threaded reader and class lists of `alexnet_edge.dataset`."""

import collections
import hashlib
import os
import shutil
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_edge.dataset import (
    ImageItem,
    ImageReader,
    ImageSet,
    map_ahead,
    open_images,
    read_classes,
)
from alexnet_edge.errors import DatasetError, ImageError, MissingDependencyError
from alexnet_edge.preprocess import PreprocessSpec

REPOSITORY = Path(__file__).parents[1]
DATA = Path(os.environ.get("ALEXNET_EDGE_DATA", REPOSITORY.parent / "shared" / "data"))
SPEC = PreprocessSpec(resize=8, crop=8, input="uint8")

needs_photos = pytest.mark.skipif(
    not (DATA / "photos").is_dir(), reason=f"no photos in {DATA}; set ALEXNET_EDGE_DATA"
)


def save(path, seed=0):
    """Write an 8×8 picture of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def names(images):
    return [item.name for item in images.items]


@pytest.fixture
def flat(tmp_path):
    """A folder of 23 pictures."""
    for index in range(23):
        save(tmp_path / "flat" / f"{index:02d}.png", index)
    return tmp_path / "flat"


@pytest.fixture
def animals(tmp_path):
    """Class folders: 2 ants, 3 bees and 1 cat."""
    for name in ("cat/x.png", "bee/3.png", "bee/1.png", "bee/2.png", "ant/b.jpg", "ant/a.png"):
        save(tmp_path / "animals" / name)
    return tmp_path / "animals"


# --- opening ------------------------------------------------------------------------------------


def test_a_flat_folder_is_an_unlabelled_set_in_the_order_of_its_names(tmp_path):
    for name in ("b.png", "a.jpg", "c.bmp"):
        save(tmp_path / name)
    images = open_images(tmp_path)
    assert names(images) == ["a.jpg", "b.png", "c.bmp"]
    assert images.classes is None
    assert [item.label for item in images.items] == [None] * 3
    assert (images.name, len(images)) == (str(tmp_path), 3)


def test_class_folders_are_labels_in_the_order_of_their_names(animals):
    images = open_images(str(animals))
    assert images.classes == ("ant", "bee", "cat")
    assert [(item.name, item.label) for item in images.items] == [
        ("ant/a.png", 0),
        ("ant/b.jpg", 0),
        ("bee/1.png", 1),
        ("bee/2.png", 1),
        ("bee/3.png", 1),
        ("cat/x.png", 2),
    ]


def test_an_empty_class_folder_keeps_its_label(animals):
    (animals / "ass").mkdir()
    images = open_images(animals)
    assert images.classes == ("ant", "ass", "bee", "cat")
    assert {item.label for item in images.items} == {0, 2, 3}


def test_what_file_managers_leave_behind_is_no_image(animals):
    for name in (".DS_Store", "ant/.hidden.png", "bee/Thumbs.db", ".git/a.png", "cat/desktop.ini"):
        (animals / name).parent.mkdir(exist_ok=True)
        (animals / name).touch()
    assert len(open_images(animals)) == 6


def test_a_text_file_beside_class_folders_is_no_image(animals):
    (animals / "README.md").write_text("Three animals.")
    assert len(open_images(animals)) == 6


def test_images_beside_class_folders_are_refused(animals):
    save(animals / "stray.JPG")
    with pytest.raises(DatasetError, match="images beside the class folders ant, bee, cat"):
        open_images(animals)


def test_a_folder_of_folders_of_class_folders_is_refused_and_one_is_proposed(animals):
    for part in ("train", "val"):
        shutil.copytree(animals, animals.parent / "split" / part)
    with pytest.raises(DatasetError, match="split: holds folders of class folders") as caught:
        open_images(animals.parent / "split")
    assert caught.value.hint.endswith(str(Path("split", "train")))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("empty", "holds no images"),
        ("hollow", "holds no images"),
        ("missing", "no such folder"),
        ("file.png", "is a file, a folder is expected"),
    ],
)
def test_what_holds_no_images_is_refused_by_name(tmp_path, name, problem):
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "class").mkdir(parents=True)
    save(tmp_path / "file.png")
    with pytest.raises(DatasetError, match=rf"{name}: {problem}") as caught:
        open_images(tmp_path / name)
    assert caught.value.hint


def test_an_item_is_hashed_by_what_it_holds(flat):
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    item = open_images(flat).items[0]
    assert item.sha256 == hashlib.sha256((flat / "00.png").read_bytes()).hexdigest()
    assert ImageItem("x", pixels).sha256 == hashlib.sha256(bytes(range(12))).hexdigest()


# --- digits -------------------------------------------------------------------------------------


@pytest.fixture
def digits():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    return {part: open_images(f"digits{part}") for part in ("", ":train", ":val")}


def test_the_parts_of_the_digits_are_disjoint_and_complete(digits):
    train, val = set(names(digits[":train"])), set(names(digits[":val"]))
    assert not train & val
    assert train | val == set(names(digits[""]))
    assert len(train) + len(val) == 1797
    assert len(val) == 359


def test_both_parts_of_the_digits_hold_every_class_often_enough_to_tell(digits):
    for part in (":train", ":val"):
        counts = collections.Counter(item.label for item in digits[part].items)
        assert sorted(counts) == list(range(10))
        assert min(counts.values()) >= 20
        assert digits[part].classes == tuple("0123456789")


def test_a_digit_is_the_same_picture_in_the_whole_and_in_its_part(digits):
    whole = {item.name: item for item in digits[""].items}
    for item in digits[":val"].items[:20]:
        assert (item.label, item.sha256) == (whole[item.name].label, whole[item.name].sha256)


def test_digits_are_gray_pictures_of_the_full_range(digits):
    pixels = np.stack([item.source for item in digits[":val"].items])
    assert (pixels.dtype, pixels.shape[1:]) == (np.uint8, (8, 8, 3))
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert (pixels == pixels[..., :1]).all()


def test_an_unknown_part_of_the_digits_is_refused(digits):
    with pytest.raises(DatasetError, match="digits:test: no such part"):
        open_images("digits:test")


def test_digits_without_scikit_learn_name_the_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match="scikit-learn") as caught:
        open_images("digits")
    assert "alexnet-edge[demo]" in caught.value.hint


# --- sampling and classes -----------------------------------------------------------------------


def labelled(counts):
    """A set of ``counts[label]`` images of each label, interleaved."""
    rounds = range(max(counts, default=0))
    items = tuple(
        ImageItem(f"{label}/{index}", Path(f"{label}/{index}"), label)
        for index in rounds
        for label, count in enumerate(counts)
        if index < count
    )
    return ImageSet("set", items, tuple(str(label) for label in range(len(counts))))


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 80), st.integers(0, 1000)
)
def test_a_sample_has_its_count_in_order_and_is_even_over_the_classes(counts, count, seed):
    images = labelled(counts)
    sample = images.sample(count, seed=seed)
    assert len(sample) == min(count, sum(counts))
    assert list(sample.items) == [item for item in images.items if item in sample.items]
    assert sample.classes == images.classes

    taken = collections.Counter(item.label for item in sample.items)
    most = max(taken.values(), default=0)
    assert all(taken[label] >= min(most - 1, available) for label, available in enumerate(counts))


def test_the_same_names_and_seed_give_the_same_sample(flat, tmp_path):
    copy = shutil.copytree(flat, tmp_path / "copy")
    for path in copy.iterdir():
        save(path, seed=99)
    assert names(open_images(copy).sample(7)) == names(open_images(flat).sample(7))


def test_another_seed_gives_another_sample(flat):
    images = open_images(flat)
    samples = {tuple(names(images.sample(7, seed=seed))) for seed in range(10)}
    assert len(samples) == 10


def test_a_sample_is_not_merely_the_first_files(flat):
    assert names(open_images(flat).sample(7)) != names(open_images(flat))[:7]


@pytest.mark.parametrize("count", [None, 23, 24])
def test_a_sample_of_everything_is_the_set(flat, count):
    images = open_images(flat)
    assert images.sample(count) is images


def test_labels_become_indices_into_the_classes_of_the_model(animals):
    images = open_images(animals).with_classes(["dog", "cat", "bee", "ant"])
    assert images.classes == ("dog", "cat", "bee", "ant")
    assert [item.label for item in images.items] == [3, 3, 2, 2, 2, 1]
    assert all(item.name.startswith(images.classes[item.label]) for item in images.items)


def test_a_class_folder_that_the_model_does_not_know_is_refused_by_name(animals):
    with pytest.raises(DatasetError, match=r"class folder 'bee' is not .* \(ant, cat\)"):
        open_images(animals).with_classes(["ant", "cat"])


def test_an_unlabelled_set_stays_unlabelled(flat):
    images = open_images(flat)
    assert images.with_classes(["ant", "bee"]) is images


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("batch_size", [1, 4, 23, 100])
def test_order_and_contents_depend_on_neither_workers_nor_batch_size(flat, workers, batch_size):
    (flat / "07.png").write_bytes(b"no picture")
    reader = ImageReader(
        open_images(flat), SPEC, batch_size=batch_size, workers=workers, max_bad=0.1
    )
    batches = list(reader)
    good = [path for path in sorted(flat.iterdir()) if path.name != "07.png"]
    assert [item.source for batch in batches for item in batch.items] == good
    np.testing.assert_array_equal(
        np.concatenate([batch.tensor for batch in batches]), [Image.open(path) for path in good]
    )
    sizes = [len(batch) for batch in batches]
    assert sizes == [batch_size] * (22 // batch_size) + [22 % batch_size] * (22 % batch_size > 0)
    assert [skipped.name for skipped in reader.skipped] == ["07.png"]


def test_a_reader_can_be_read_again(flat):
    (flat / "07.png").write_bytes(b"no picture")
    reader = ImageReader(open_images(flat), SPEC, max_bad=0.1)
    first, second = list(reader), list(reader)
    assert [batch.items for batch in first] == [batch.items for batch in second]
    assert len(reader.skipped) == 1


def test_pixels_in_memory_are_read_as_files_are():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    items = tuple(ImageItem(str(index), image) for index, image in enumerate(pixels))
    (batch,) = ImageReader(ImageSet("memory", items), SPEC)
    np.testing.assert_array_equal(batch.tensor, pixels)


@needs_photos
def test_photos_are_the_same_whoever_decodes_them():
    photos = open_images(DATA / "photos").sample(5)
    spec = PreprocessSpec(resize=256, crop=227)
    (alone,) = ImageReader(photos, spec, workers=1)
    (together,) = ImageReader(photos, spec, workers=4)
    assert alone.tensor.shape == (5, 3, 227, 227)
    assert np.isfinite(alone.tensor).all()
    np.testing.assert_array_equal(alone.tensor, together.tensor)


def test_bad_files_are_counted_and_named_with_the_reason(flat):
    (flat / "03.png").write_bytes(b"")
    (flat / "20.png").write_bytes((flat / "21.png").read_bytes()[:60])
    reader = ImageReader(open_images(flat), SPEC, max_bad=0.1)
    assert sum(len(batch) for batch in reader) == 21
    assert [skipped.name for skipped in reader.skipped] == ["03.png", "20.png"]
    assert all(skipped.name in skipped.reason for skipped in reader.skipped)


@pytest.mark.parametrize(("max_bad", "allowed"), [(0, 0), (0.04, 0), (1 / 23, 1), (0.5, 11)])
def test_more_bad_files_than_allowed_are_an_error_that_names_them(flat, max_bad, allowed):
    bad = sorted(flat.iterdir())[: allowed + 1]
    for path in bad[:allowed]:
        path.write_bytes(b"no picture")
    images = open_images(flat)
    assert sum(len(batch) for batch in ImageReader(images, SPEC, max_bad=max_bad)) == 23 - allowed

    bad[-1].write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=f"{allowed + 1} of 23 files") as caught:
        list(ImageReader(images, SPEC, max_bad=max_bad))
    assert all(path.name in caught.value.message for path in bad[:3])
    assert "--max-bad" in caught.value.hint


def test_a_set_without_one_readable_image_is_an_error_even_if_all_may_be_bad(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no picture")
    with pytest.raises(DatasetError, match="2 of 2 files"):
        list(ImageReader(open_images(tmp_path), SPEC, max_bad=1.0))


def test_a_file_that_vanishes_is_a_bad_file(flat):
    images = open_images(flat)
    (flat / "05.png").unlink()
    reader = ImageReader(images, SPEC, max_bad=0.1)
    assert sum(len(batch) for batch in reader) == 22
    assert "No such file" in reader.skipped[0].reason


def test_decoding_on_threads_leaves_the_warning_filters_of_the_process_alone(tmp_path):
    for index in range(32):
        Image.effect_noise((300, 300), 80).save(tmp_path / f"{index}.jpg")
    before = list(warnings.filters)
    list(ImageReader(open_images(tmp_path), SPEC, workers=8))
    assert list(warnings.filters) == before


# --- map_ahead ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(1, 5), st.integers(1, 9))
def test_map_ahead_yields_every_result_in_order(count, workers, window):
    results = map_ahead(lambda item: item * item, range(count), workers=workers, window=window)
    assert list(results) == [item * item for item in range(count)]


def test_map_ahead_keeps_order_when_later_items_finish_first():
    finished = []

    def work(item):
        time.sleep(0.2 if item == 0 else 0)
        finished.append(item)
        return item

    assert list(map_ahead(work, range(4), workers=4, window=4)) == [0, 1, 2, 3]
    assert finished[-1] == 0


def test_map_ahead_uses_all_workers_at_once():
    meeting = threading.Barrier(4, timeout=10)
    results = list(map_ahead(lambda _: meeting.wait(), range(4), workers=4, window=4))
    assert sorted(results) == [0, 1, 2, 3]


@pytest.mark.parametrize("window", [1, 3, 10])
def test_map_ahead_takes_no_more_than_the_window_in_advance(window):
    taken = []

    def source():
        for item in range(50):
            taken.append(item)
            yield item

    for yielded, _ in enumerate(map_ahead(str, source(), workers=2, window=window), start=1):
        assert len(taken) <= yielded + window
    assert len(taken) == 50


def test_map_ahead_ends_its_threads_when_closed_early():
    threads, started = set(), []

    def work(item):
        threads.add(threading.current_thread())
        started.append(item)
        time.sleep(0.02)

    results = map_ahead(work, range(1000), workers=2, window=60)
    next(results)
    results.close()
    assert threads
    assert not any(thread.is_alive() for thread in threads)
    assert len(started) < 50  # what was queued but not begun is dropped


def test_map_ahead_passes_an_exception_on_in_its_turn_and_ends_its_threads():
    threads = set()

    def work(item):
        threads.add(threading.current_thread())
        if item == 2:
            raise ImageError("the third")
        return item

    results = map_ahead(work, range(100), workers=3, window=5)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ImageError, match="the third"):
        next(results)
    assert not any(thread.is_alive() for thread in threads)


# --- class lists --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"ant\nbee\nsea lion\n",
        b"ant\r\nbee\r\nsea lion",
        b"\n ant \n\nbee\n\nsea lion\n\n",
        b"\xef\xbb\xbfant\nbee\nsea lion\n",
    ],
    ids=["plain", "Windows", "blank lines", "byte order mark"],
)
def test_classes_are_read_a_line_each_in_order(tmp_path, content):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    assert read_classes(path) == ("ant", "bee", "sea lion")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "names no class"),
        (b" \n\n", "names no class"),
        (b"ant\nbee\nant \n", "names 'ant' twice"),
        (b"\xff\xfea\0n\0", "can't decode"),
    ],
)
def test_a_class_list_that_is_no_list_of_classes_is_refused(tmp_path, content, problem):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"classes\.txt: .*{problem}"):
        read_classes(path)


def test_a_missing_class_list_is_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match=r"classes\.txt: "):
        read_classes(tmp_path / "classes.txt")
