"""Adapters of `ports.blobs.Blobs`: where immutable bytes lie."""
