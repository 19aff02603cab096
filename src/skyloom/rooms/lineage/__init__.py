"""Lineage: from a prediction down to the rows that trained its model, and from a row up. The top room; it stores nothing."""
