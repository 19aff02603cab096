"""Ready programs that run inside jobs: ingest, clean and split for datasets; image and tabular trainers for models.

Each is a module of its own (``python -m skyloom.recipes.image --config config.json``): what it can be told stands in its config class.
"""
