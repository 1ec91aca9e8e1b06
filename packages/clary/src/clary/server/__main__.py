"""`python -m clary.server`."""

from clary.server.parent import main

if __name__ == "__main__":
    main()
