"""Models that can be deployed: digest-pinned bundles with signature, provenance and evaluation, in numbered versions with aliases."""
