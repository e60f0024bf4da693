"""Tests of `alexnet_edge.runtimes`."""
