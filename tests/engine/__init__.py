"""Tests of `alexnet_edge.engine`."""
