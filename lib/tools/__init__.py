"""What looks at data, runs and machines beside training: checks, statistics, imports, timings."""
