"""The benchmark: Tidings beside its peers and beside the floor, in alternating rounds on one machine."""
