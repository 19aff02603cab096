"""Jobs: what runs, on how much, how often, and why it ended. Scheduling lives here."""
