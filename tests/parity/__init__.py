"""Tests of calibration and of the Q/DQ pass."""
