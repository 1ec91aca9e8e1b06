"""Packages that training scripts import from AWS's images by name: what scripts call of them, not the whole.

clary_toolkit_hooks.pth puts this folder last on the path of an image, so the originals win where someone installs them.
"""
