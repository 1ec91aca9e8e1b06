"""`python -m clary.cli` is `clary`."""

from clary.cli import main

if __name__ == "__main__":
    main()
