"""Labels: words by which machines, pools and devices are chosen."""

from collections.abc import Mapping


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether all labels of a selector are there, with the same values."""
    return all(labels.get(name) == value for name, value in selector.items())
