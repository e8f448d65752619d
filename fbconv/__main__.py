"""``python -m fbconv`` is the ``fbconv`` command."""

from .cli import main

main()
