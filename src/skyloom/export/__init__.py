"""Files that serve a model without Skyloom's control plane, on ground of the user's own. Pure texts, and one writer."""
