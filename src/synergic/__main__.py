"""`python -m synergic`."""

from synergic.cli import main

main()
