"""What executes a network, behind one interface."""
