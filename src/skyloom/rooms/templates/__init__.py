"""Templates: jobs, arrays and schedules that belong together, described as a whole and made as a whole or not at all."""
