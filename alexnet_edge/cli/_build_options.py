"""What `build`'s options ask for, and which of them contradict each other."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer

from alexnet_edge.cli._ranges import RangeSource

if TYPE_CHECKING:
    from alexnet_edge.engine.profile import BatchRange, Profile
    from alexnet_edge.quantize.int4 import Int4Settings


@dataclasses.dataclass(frozen=True)
class AskedPrecision:
    """The options that name a precision, as they were given."""

    fp32: bool = False
    fp16: bool = False
    int8: bool = False
    int4_fc: bool = False
    int4_block: int | None = None
    int4_rounding: str | None = None
    int2: tuple[str, ...] = ()

    @property
    def given(self) -> bool:
        """Whether any was."""
        return self.fp32 or self.fp16 or self.int8 or self.int4_fc

    def name(self) -> str:
        """Return `fp32`, `fp16` or `int8`, of all layers but those with 4-bit weights."""
        wanted = [name for name in ("fp32", "fp16", "int8") if getattr(self, name)]
        if len(wanted) > 1:
            raise typer.BadParameter(f"give one of --{', --'.join(wanted)}")
        return wanted[0] if wanted else "fp32"

    def int4(self) -> Int4Settings | None:
        """Return how linear layers become 4-bit, if they do."""
        from alexnet_edge.quantize.int4 import AUTO, DEFAULT_BLOCK, Int4Settings

        if not self.int4_fc:
            if self.int4_block is not None or self.int4_rounding is not None or self.int2:
                raise typer.BadParameter(
                    "--int4-block, --int4-rounding and --int2 are for --int4-fc"
                )
            return None
        block = DEFAULT_BLOCK if self.int4_block is None else self.int4_block
        return Int4Settings(block, self.int4_rounding or AUTO, self.int2)


def name_criterion(*, smallest: bool, fastest: bool, contradicted: bool) -> str | None:
    """Return what `--smallest` or `--fastest` choose by, `size` or `latency`; None without them."""
    if not smallest and not fastest:
        return None
    if contradicted or (smallest and fastest):
        raise typer.BadParameter(
            "--smallest or --fastest choose the precision: no --fp32, --fp16, --int8, --int4-fc, "
            "--spare, --sparse or --dry-run with them, and one of the two"
        )
    return "size" if smallest else "latency"


def require_sense(
    source: RangeSource, precision: str, max_drop: float | None, *, sparse: bool, int4: bool
) -> None:
    """Refuse options that contradict each other."""
    given = [source.cache, max_drop, None if sparse or int4 else source.images]
    given += [None if int4 else source.table]
    if precision != "int8" and any(value is not None for value in given):
        raise typer.BadParameter(
            f"--table, --cache, --max-drop, and --images without --sparse or --int4-fc, are for "
            f"--int8, not --{precision}"
        )
    if max_drop is not None and int4:
        raise typer.BadParameter(
            "--max-drop chooses among INT8 layers, --int4-fc has others: name those to --spare"
        )
    if source.cache is not None and any(v is not None for v in (source.table, max_drop)):
        raise typer.BadParameter("--cache stands alone: no --table and no --max-drop with it")
    if max_drop is not None and source.images is None:
        raise typer.BadParameter("--max-drop needs --images DIR, labelled by class folders")


def parse_batch_range(text: str | None, board: Profile | None) -> BatchRange:
    """Return the range of `MIN,OPT,MAX`; of None the target board's."""
    from alexnet_edge.engine.profile import BatchRange

    if text is None:
        return board.batch if board is not None else BatchRange()
    try:
        low, best, high = (int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not MIN,OPT,MAX", param_hint="--batch") from None
    return BatchRange(low, best, high)
