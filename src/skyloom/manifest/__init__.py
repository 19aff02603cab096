"""Files that put Skyloom on ground of the user's own: settings in, documents out. Knows no cluster and asks none."""
