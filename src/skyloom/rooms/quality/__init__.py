"""Quality: what people say was true, held against what models said; counted by revision and time."""
