"""The training launcher: what AWS's training toolkit does inside a container, from /opt/ml to the script's exit code.

Called by the `train` command alone; calls nothing outside this folder and the standard library.
"""
