"""Which images 4-bit weights are rounded to and judged by: a table's, or a folder's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_edge.cli._ranges import RangeSource, default_table

if TYPE_CHECKING:
    from alexnet_edge.preprocess import PreprocessSpec
    from alexnet_edge.quantize.int4 import Int4Settings
    from alexnet_edge.quantize.int4_choice import Int4Images
    from alexnet_edge.quantize.table import CalibrationTable


def find_int4_images(
    source: RangeSource, ranges: dict[str, Any], settings: Int4Settings
) -> Int4Images | None:
    """Return the images; None where the rounding needs none, or there are none.

    Those of a calibration are divided as it divided them. A folder that is given beside a table
    says where these are now; alone it is divided here.

    Args:
        source: the options.
        ranges: what INT8 is built with, if it is.
        settings: of the 4-bit layers.
    """
    from alexnet_edge.dataset import open_images
    from alexnet_edge.quantize.int4 import MSE, NEAREST
    from alexnet_edge.quantize.int4_choice import Int4Images

    if settings.rounding in {NEAREST, MSE}:
        return None
    images = None if source.images is None else open_images(source.images)
    table, folder = _find_table(source, ranges)
    if table is not None:
        return Int4Images.of_table(table, images if source.table else None, folder)
    if images is None:
        return None
    return Int4Images.of_set(images, _preprocess(source))


def _find_table(
    source: RangeSource, ranges: dict[str, Any]
) -> tuple[CalibrationTable | None, Path]:
    """Return the table whose images count, and the folder that it lies in."""
    from alexnet_edge.graph import read_graph
    from alexnet_edge.quantize.table import load_table

    if "table" in ranges:
        return ranges["table"], (source.table or source.model).parent
    if "cache" in ranges or (source.table is None and source.images is not None):
        return None, source.model.parent
    path = source.table or default_table(source.model)
    if source.table is None and not path.exists():
        return None, path.parent
    table = load_table(path)
    graph = read_graph(source.model)
    table.require_match(graph, source.preprocess or graph.preprocess)
    return table, path.parent


def _preprocess(source: RangeSource) -> PreprocessSpec:
    from alexnet_edge.graph import read_graph
    from alexnet_edge.quantize.calibrate import require_preprocess

    return require_preprocess(read_graph(source.model), source.preprocess)
