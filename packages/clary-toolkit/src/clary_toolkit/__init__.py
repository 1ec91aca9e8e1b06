"""What runs inside a sandbox, on Python 3.7 to 3.13: standard library only, but for what an image has to serve with."""

__version__ = "0.1.0"
