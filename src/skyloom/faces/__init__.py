"""Faces turn bytes into operations and answers into bytes. They hold no rules."""
