"""A Jetson's power monitors.

Where, and in what units:

- JetPack 5, 6 and 7: the kernel's hwmon drivers. `/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmonN`
  has `in1_label`, `in1_input` (mV) and `curr1_input` (mA) for each of three channels; `in4` to
  `in7` are shunt voltages and `curr4` a sum, not rails (Documentation/hwmon/ina3221.rst). A listing
  of an AGX Orin: github.com/alumet-dev/alumet/issues/212. Channels that nothing is wired to are
  labelled `NC` and may answer with an I/O error.
- AGX Thor has a third chip at 2-0044, an INA238 on the carrier board's input, `VIN`:
  `power1_input` in µW (Documentation/hwmon/ina238.rst; github.com/rbonghi/jetson_stats/pull/900;
  forums.developer.nvidia.com/t/366461).
- JetPack 4: NVIDIA's own driver. `/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0` has
  `rail_name_0` and `in_power0_input` (mW).

Rail names: arch/arm64/boot/dts/nvidia/tegra234-p3701.dtsi and -p3767.dtsi (Orin), tegrastats of an
AGX Thor (VDD_GPU, VDD_CPU_SOC_MSS, VIN_SYS_5V0, VIN), and JetsonPowerRails.md of
github.com/energymon/energymon for the older ones.

The chips sit behind the carrier board's regulators, but for VIN: a meter at the plug shows more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from alexnet_edge.sensors.base import Meter, Reading, Sensor
from alexnet_edge.sensors.files import find_paths, read_int, try_int, try_text

_TOTALS: tuple[tuple[str, ...], ...] = (
    # The board's input, which holds the module and the carrier board: AGX Thor.
    ("VIN",),
    # The module's input: Orin NX and Nano, Xavier NX, TX2, TX1. "VDD_IN is the total power of
    # module": forums.developer.nvidia.com/t/200883.
    ("VDD_IN",),
    # The same on the Nano of 2019: NVIDIA, as github.com/rbonghi/jetson_stats/issues/51 quotes it.
    ("POM_5V_IN",),
    # AGX Orin: the module's three inputs. VDDQ_VDD2_1V8AO is measured at 5 V as well, being fed by
    # VIN_SYS_5V0, and would be counted twice: forums.developer.nvidia.com/t/223111, as cited by
    # published measurements on that board, which leave it out.
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    # AGX Thor's module, where its carrier board has no INA238.
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
    # AGX Xavier: no rail holds another (JetsonPowerRails.md, from its Product Design Guide).
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
"""What adds up to all that a board or module takes, without a rail that is part of another."""


@dataclasses.dataclass(frozen=True)
class Rail:
    """One measured supply.

    Attributes:
        name: its label.
        chip: that measures it, as `INA3221`.
        power: file of its power, or None where it is voltage × current.
        power_scale: watts to one of that file's units.
        voltage, current: files in mV and mA.
    """

    name: str
    chip: str
    power: Path | None = None
    power_scale: float = 1e-6
    voltage: Path | None = None
    current: Path | None = None

    def read_w(self) -> float:
        """Return the power in watts.

        Raises:
            OSError: the chip does not answer.
            ValueError: what it answers is not a number.
        """
        if self.power is not None:
            return read_int(self.power) * self.power_scale
        if self.voltage is None or self.current is None:
            raise ValueError(f"{self.name}: neither power nor voltage and current")
        return read_int(self.voltage) * read_int(self.current) * 1e-6


def find_power_sensors(root: Path) -> list[Sensor]:
    """Return the sensor of a Jetson's rails below ``root``, or nothing."""
    rails = find_rails(root)
    return [RailSensor(rails)] if rails else []


class RailSensor(Sensor):
    """The power of every rail.

    Energy is that of the rails of `_TOTALS`; where none fits, as on a board that is not known,
    the rails are measured and nothing is added up.
    """

    def __init__(self, rails: tuple[Rail, ...]) -> None:
        self._rails = rails
        chips = sorted({rail.chip for rail in rails})
        self.name = " + ".join(chips)
        by_name = {rail.name: rail for rail in rails}
        for total in _TOTALS:
            if all(name in by_name for name in total):
                chips = sorted({by_name[name].chip for name in total})
                name = f"{' + '.join(chips)} {' + '.join(total)}"
                self.meter = Meter(name, rails=total, whole=True)
                break
        else:
            self.gaps = (
                f"which of the rails {', '.join(by_name)} hold the others is not known: "
                "no energy is added up",
            )

    def read(self) -> Reading:
        """Return the power of each rail that answers.

        Raises:
            OSError: none does.
            ValueError: likewise.
        """
        power_w: dict[str, float] = {}
        for rail in self._rails:
            try:
                power_w[rail.name] = rail.read_w()
            except (OSError, ValueError):
                if rail is self._rails[-1] and not power_w:
                    raise
        return Reading(power_w=power_w)


def find_rails(root: Path) -> tuple[Rail, ...]:
    """Return the rails below ``root`` that are labelled and answer."""
    drivers = root / "sys/bus/i2c/drivers"
    found: dict[str, Rail] = {}
    for rail in (*_find_hwmon_rails(drivers), *_find_iio_rails(drivers)):
        if _answers(rail):
            found.setdefault(rail.name, rail)
    return tuple(found.values())


def _find_hwmon_rails(drivers: Path) -> Iterator[Rail]:
    for folder in find_paths(drivers, "ina3221/*/hwmon/hwmon*"):
        for channel in (1, 2, 3):
            label = try_text(folder / f"in{channel}_label")
            if label and label != "NC":
                yield Rail(
                    label,
                    "INA3221",
                    voltage=folder / f"in{channel}_input",
                    current=folder / f"curr{channel}_input",
                )
    for folder in find_paths(drivers, "ina238/*/hwmon/hwmon*"):
        label = try_text(folder / "label") or try_text(folder / "in1_label") or "VIN"
        yield Rail(label, "INA238", power=folder / "power1_input")


def _find_iio_rails(drivers: Path) -> Iterator[Rail]:
    for folder in find_paths(drivers, "ina3221x/*/iio:device*"):
        for channel in (0, 1, 2):
            if label := try_text(folder / f"rail_name_{channel}"):
                power = folder / f"in_power{channel}_input"
                yield Rail(label, "INA3221", power=power, power_scale=1e-3)


def _answers(rail: Rail) -> bool:
    files = [path for path in (rail.power, rail.voltage, rail.current) if path is not None]
    return all(try_int(path) is not None for path in files)
