"""The whole at a glance: what runs and how much is left, and why any one thing is in its state."""
