"""How figures are written: three digits that mean something, units as people read them."""

from __future__ import annotations

MINUS = "−"


def significant(value: float, digits: int = 3) -> str:
    """Return so many significant digits and no exponent within reason: 0.672, 14.7, 1,230."""
    if value == 0:
        return "0"
    size = abs(value)
    if not 1e-4 <= size < 1e7:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - len(str(int(abs(rounded)))) if abs(rounded) >= 1 else digits)
    if abs(rounded) < 1:
        leading = 0
        while abs(rounded) < 10 ** -(leading + 1):
            leading += 1
        decimals = digits + leading
    return f"{rounded:,.{decimals}f}".replace("-", MINUS)


def milliseconds(value: float) -> str:
    """Return `14.7 ms`."""
    return f"{significant(value)} ms"


def megabytes(value: float) -> str:
    """Return `58.4 MB`."""
    return f"{significant(value / 1e6)} MB"


def percent(value: float) -> str:
    """Return a fraction as `98.33 %`."""
    return f"{100 * value:.2f} %"


def points(value: float) -> str:
    """Return percentage points with their sign, as `+0.28 pp`."""
    return f"{signed(value)} pp"


def signed(value: float, decimals: int = 2) -> str:
    """Return a number with its sign."""
    text = f"{value:+.{decimals}f}"
    if float(text) == 0:
        text = f"{0:.{decimals}f}"
    return text.replace("-", MINUS)


def decibels(value: float) -> str:
    """Return `48.5 dB`."""
    return f"{value:.1f} dB".replace("-", MINUS)


def times(value: float, digits: int = 2) -> str:
    """Return a ratio as `3.0×` or `0.0041×`."""
    return f"{significant(value, digits)}×"


def ratio(value: float) -> str:
    """Return a ratio for a column of them: three digits."""
    return f"{significant(value)}×"


def count(value: float) -> str:
    """Return a whole number, thousands apart."""
    return f"{int(value):,}"


def interval(low: float, high: float, digits: int = 3) -> str:
    """Return `13.6–15.7`; with signs as `−0.95 to +0.24`."""
    return f"{significant(low, digits)}–{significant(high, digits)}"
