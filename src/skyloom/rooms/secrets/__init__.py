"""Secrets: what jobs may know and nobody may read. Kept sealed, given to the processes of jobs that ask for them, told to nobody else."""
