"""The table of differences between Clary's launcher and AWS's training toolkit, each with its reason.

`test_conformance` holds the launcher to it. `python conformance_differences.py FILE` writes it into the document FILE.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- differences: begin -->", "<!-- differences: end -->"


@dataclass(frozen=True)
class Difference:
    """A difference that is allowed.

    `pattern` matches lines that `differences_of` gives, in the cases whose names `cases` matches; a row without one is
    shown by the test module that `shown_by` names.
    """

    subject: str
    aws: str
    clary: str
    why: str
    pattern: str = ""
    cases: str = ""
    shown_by: str = ""


DIFFERENCES = (
    Difference(
        "ErrorMessage of a script that raised",
        "the source line and the error; where it happened is left out",
        "the innermost frame in the user's code (file, line, function), the source line and the error",
        "FailureReason is to say why and where, and often is all that its reader has",
        r'^failure\.ErrorMessage: ".*" → "File \\".*, line ',
    ),
    Difference(
        "ErrorMessage without a traceback",
        "empty",
        "the last lines that the script printed (at most five)",
        "`sys.exit('no data')` and failing shell scripts say why in just those lines",
        r'^failure\.ErrorMessage: "" → ',
    ),
    Difference(
        "ErrorMessage outside framework images",
        "empty, whatever was raised",
        "as in framework images",
        "there is no reason to hide it",
        r'^failure\.ErrorMessage: "" → "File ',
    ),
    Difference(
        "A script killed by a signal",
        "no ExtraInfo",
        '`ExtraInfo "Process killed by SIGKILL (signal 9)"`',
        "the number -9 alone is a riddle",
        r"^failure\.ExtraInfo: null → \"Process killed by SIG",
    ),
    Difference(
        "Entry point that is not there",
        "Python's exit code 2; for a shell script `Framework Error` with a traceback of the toolkit",
        "one sentence naming it and what the source directory holds",
        "a user's mistake is answered in a sentence, not by a traceback",
        r"^(failure|exit_code): ",
        "^(no such (program|shell script)|no archive at all)",
    ),
    Difference(
        "Entry point name that is refused",
        "the same names are refused, in AWS's words",
        "in our words",
        "the text is ours; nothing depends on it",
        r"^failure: ",
        "^(the name|no program)",
    ),
    Difference(
        "Missing or broken file in input/config",
        "`Framework Error` with a traceback; the exit code is the error number",
        "one sentence naming the file; exit code 1",
        "as above",
        r"^(failure: .*Framework Error|exit_code: 2 → 1)",
        "hyperparameters.json|inputdataconfig.json",
    ),
    Difference(
        "Code that is not there, or is no archive",
        "`Framework Error` with a traceback",
        "one sentence with S3's own error, or what was expected",
        "as above",
        r"^(failure: .*Framework Error|exit_code: \d+ → 1)",
        "^no such (object|folder)",
    ),
    Difference(
        "Source archive with `..`, absolute paths, devices or links that lead out",
        "renamed into the folder or left out, with a warning",
        "the job fails, naming the member",
        "an archive like that is an attack or a mistake: running what is left of it helps neither",
        r"^(exit_code: 0 → 1|succeeded: true → false|failure: null → .*source archive|seen: true → false"
        r"|\w+(\.\S+)?: .* → null$)",
        "^bad archive",
    ),
    Difference(
        "S3_CONNECT_TIMEOUT_MSEC, S3_REQUEST_TIMEOUT_MSEC in TensorFlow images",
        "unset: the plugin gives up after 1 and 3 s",
        "60000, unless the job sets another time",
        "a busy machine's own store may take longer than Amazon's",
        r"^environment\.S3_(CONNECT|REQUEST)_TIMEOUT_MSEC: ",
    ),
    Difference(
        "S3_ENDPOINT, S3_USE_HTTPS, S3_VERIFY_SSL in TensorFlow images",
        "S3_USE_HTTPS=1 only: TensorFlow's S3 plugin always goes to Amazon",
        "the endpoint of AWS_ENDPOINT_URL, when that is set",
        "`model_dir` in S3 is to be written to the store of this machine",
        r"^environment\.S3_(ENDPOINT|USE_HTTPS|VERIFY_SSL): ",
    ),
    Difference(
        "SAGEMAKER_REGION, S3_REGION when AWS_REGION alone names the region",
        "empty: boto3 does not read AWS_REGION",
        "that region",
        "the platform sets AWS_REGION; an empty region helps nobody",
        r"^environment\.(SAGEMAKER|S3)_REGION: \"\" → ",
    ),
    Difference(
        "S3_REGION in TensorFlow images with a model_dir in S3",
        "the bucket's region, which S3 is asked for",
        "the job's region",
        "there is one region here; the question would delay each start",
        shown_by="test_tensorflow.py",
    ),
    Difference(
        "model_dir under a tuning job that has none",
        "`None/<job>/model`",
        "stays absent",
        "that text is a slip",
        r"^(argv|environment\.SM_\w+): ",
        "^a tuning job without model_dir",
    ),
    Difference(
        "SM_NUM_CPUS",
        "all processors of the machine",
        "those that the job may use (affinity, control group)",
        "several hosts share one machine here; on a machine of its own the numbers are equal",
        shown_by="test_machine.py",
    ),
    Difference(
        "SM_NUM_GPUS",
        "what nvidia-smi lists",
        "device files, narrowed by CUDA_VISIBLE_DEVICES",
        "hosts share the machine's GPUs; nvidia-smi takes up to seconds",
        shown_by="test_machine.py",
    ),
    Difference(
        "SIGTERM",
        "ends the toolkit; the script never hears of it",
        "forwarded to the script (and to the commands of a shell script)",
        "a script that is stopped can save its work, as the guide to BYOC containers promises",
        shown_by="test_process.py",
    ),
    Difference(
        "Output of the script",
        "decoded, split into lines, stripped, all written to standard output",
        "passed on byte by byte to where it went",
        "nothing is changed or reordered, and a progress bar stays one",
        shown_by="test_process.py",
    ),
    Difference(
        "Processes that the script leaves behind",
        "waited for while they hold its output open, perhaps for ever",
        "not waited for: the job ends with its script",
        "a forgotten background process must not keep a job running until its time limit",
        shown_by="test_process.py",
    ),
    Difference(
        "Names of other hosts",
        "all names are awaited, its own too",
        "the others' are awaited",
        "a job with one host has nothing to wait for",
        shown_by="test_network.py",
    ),
)


def allowed(case: str, line: str) -> list[str]:
    """The subjects of the rows that allow this line of difference in this case."""
    return [
        row.subject
        for row in DIFFERENCES
        if row.pattern and re.search(row.cases, case) and re.search(row.pattern, line, re.DOTALL)
    ]


def table() -> str:
    """The table in Markdown."""
    lines = ["| Subject | AWS's toolkit | Clary | Why |", "|---|---|---|---|"]
    lines += [f"| {row.subject} | {row.aws} | {row.clary} | {row.why} |" for row in DIFFERENCES]
    return "\n".join(lines)


def with_table(document: str) -> str:
    """The document with the table as it is now, between its marks."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(with_table(document.read_text()))
