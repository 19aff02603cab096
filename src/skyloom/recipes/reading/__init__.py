"""Source files become typed rows. Each reader says what it could not read, with file and line; nothing is dropped in silence."""
