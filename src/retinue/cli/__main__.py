"""``python -m retinue.cli``."""

from retinue.cli import main

main()
