"""What every Python process of a job does as it starts, by way of clary_toolkit_hooks.pth in its image's site-packages.

It must cost nothing to speak of (under a millisecond) and never stop a process from starting.
"""

import os

# Only inside jobs: the same environment may be used outside one.
if "TRAINING_JOB_NAME" in os.environ and "AWS_ENDPOINT_URL" in os.environ:
    from clary_toolkit import sts_redirect

    sts_redirect.install()
    if os.environ.get("S3_USE_HTTPS") == "0":
        from clary_toolkit import s3_over_http

        s3_over_http.install()
if "CLARY_MASTER_ENDED" in os.environ:
    from clary_toolkit import server_join

    server_join.install()
