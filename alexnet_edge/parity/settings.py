"""How to compare, and how far a comparison is."""

from __future__ import annotations

import dataclasses

from alexnet_edge.errors import InputError


@dataclasses.dataclass(frozen=True)
class ParitySettings:
    """How to compare.

    Attributes:
        margin_pp: largest acceptable loss of top-1, in percentage points.
        batch_size: images per inference.
        max_images: how many images to take, evenly over the classes; None for all.
        seed: of the choice of images and of the bootstrap.
        max_bad: share of the images that may fail to decode.
        save_every: images between two saves of the state, where there is one.
    """

    margin_pp: float = 0.5
    batch_size: int = 8
    max_images: int | None = None
    seed: int = 0
    max_bad: float = 0.01
    save_every: int = 512

    def __post_init__(self) -> None:
        if not 0 < self.margin_pp < 100:
            raise InputError(f"margin is {self.margin_pp}", hint="give percentage points, as 0.5")
        for name in ("batch_size", "max_images", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", hint="give 1 or more")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}", hint="give 0 or more")


@dataclasses.dataclass(frozen=True)
class ParityProgress:
    """How far a comparison is.

    Attributes:
        done, total: images; those of an interrupted run that goes on are among them.
        seconds_left: at the pace so far.
        images_per_second: of this run.
    """

    done: int
    total: int
    seconds_left: float
    images_per_second: float
