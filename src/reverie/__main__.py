"""`python -m reverie` is the reverie command."""

import sys

import reverie.cli

sys.exit(reverie.cli.main())
