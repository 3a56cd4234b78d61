"""`python -m tradesweep`."""

from tradesweep.cli.main import main

if __name__ == "__main__":
    main()
