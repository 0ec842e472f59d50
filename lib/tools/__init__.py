"""Tools that training does not need: checks of data, statistics, imports, timings."""
