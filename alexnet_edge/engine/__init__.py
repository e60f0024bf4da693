"""A graph, a precision and a target into an engine and its manifest."""
