"""Ready programs that run inside of jobs: taking data in, cleaning, splitting, training."""
