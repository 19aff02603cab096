"""The REST face: one route per operation, made from the list of operations."""
