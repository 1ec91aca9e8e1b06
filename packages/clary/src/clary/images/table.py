"""Writes the table of docs/reference/images.md from the catalog and the trials. A maintainer's command.

python -m clary.images.table docs/reference/images.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from clary.images.catalog import resolve
from clary.images.releases import cuda_lock, releases
from clary.images.trial import trials_made

_BEGIN, _END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def render() -> str:
    """The table: a row for each minor version of TensorFlow."""
    trials = {trial["version"]: trial for trial in trials_made()}
    lines = [
        "| TensorFlow | Newest | Pythons | On AWS | Here | numpy | CUDA from packages | Built and trained |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for minor in dict.fromkeys(release.minor for release in reversed(releases())):
        patches = [release for release in releases() if release.minor == minor]
        image = resolve(f"tensorflow-training:{minor}-cpu", gpu=False)
        newest = patches[-1]
        numpy = next(item.partition("==")[2] for item in image.requirements if item.startswith("numpy=="))
        cuda = "yes" if cuda_lock(newest, image.python) else "no"
        tried = [trials[release.version] for release in reversed(patches) if release.version in trials]
        row = (
            minor,
            image.version,
            ", ".join(newest.pythons),
            newest.aws_python,
            image.python,
            numpy,
            cuda,
            _outcome(tried[0]) if tried else "not tried",
        )
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def written_into(page: str) -> str:
    """`page` with the table of now between its two markers."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{render()}{_END}{after}"


def _outcome(trial: dict[str, str]) -> str:
    what = f"{trial['version']}, Python {trial['python']}"
    if "failed" in trial:
        return f"fails: {what}: {trial['failed'].splitlines()[-1]}"
    legacy = f", legacy Keras {trial['legacy_keras']}" if "legacy_keras" in trial else ""
    return f"yes: {what}, Keras {trial['keras']}{legacy}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(written_into(path.read_text()))
