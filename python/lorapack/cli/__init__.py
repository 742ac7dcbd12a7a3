"""The command line: ``main.py`` finds the commands, one file each; ``output.py`` prints for all."""
