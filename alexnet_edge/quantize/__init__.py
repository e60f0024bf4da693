"""Images into ranges, ranges into Q/DQ graphs."""
