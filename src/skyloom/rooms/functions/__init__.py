"""Functions: plain Python that sleeps until it is asked, and calls that wait for their turn. A function is an endpoint; it adds a queue."""
