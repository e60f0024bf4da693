"""Tests of `alexnet_edge.bench`."""
