"""Packages with the names of other libraries, for environments that do not have the originals.

This folder is put on sys.path (after site-packages) only where the original cannot be imported; nothing in
clary_parallel imports from here.
"""
