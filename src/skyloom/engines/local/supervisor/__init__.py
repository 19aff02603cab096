"""The program that stands between an engine and a user's process. Standard library only, so that it starts in about 20 ms.

One supervisor (the *shim*) owns one task folder for its whole life. It knows plans, processes and files; it knows no engine,
no job and no database. `__main__.py` starts it without importing the rest of Skyloom, and the warm pool (`zygote.py`) forks it.
"""
