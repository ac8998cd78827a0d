"""The proof: faults, a workload, and a checker of what every one of its clients has seen."""
