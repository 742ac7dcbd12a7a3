"""``python -m lorapack``: the same as the command ``lorapack``."""

from lorapack.cli.main import main

main()
