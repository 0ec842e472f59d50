"""From the YAML files of an experiment to one checked tree of options."""
