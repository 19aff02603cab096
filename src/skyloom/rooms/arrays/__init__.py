"""Arrays: one job many times over. One record stands for up to 10,000 tasks; jobs are made from it as their turn comes."""
