"""What the rooms need from the machine, as written promises. Each port has one contract suite in `tests/contracts`."""
