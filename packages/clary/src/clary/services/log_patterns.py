"""Filter patterns of CloudWatch Logs over plain text: terms, quoted phrases, exclusions, alternatives, %regex%.

`compile_pattern("ERROR -timeout")` matches the lines that hold ERROR and not timeout. Patterns over JSON (`{…}`) and
over columns (`[…]`) are refused.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntax.html
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

import regex

from clary.wire.errors import AwsError

_TOKEN = re.compile(r'\s*(?P<sign>[-?]?)(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|%(?P<regex>[^%]*)%|(?P<word>[^\s"]+))')
_REGEX_SECONDS = 0.25  # for one line: a pattern that backtracks without end is refused, not awaited


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether a message matches the pattern; the empty pattern matches all.

    Raises:
        AwsError: InvalidParameterException, when the pattern is malformed or of a kind that Clary does not read.
    """
    stripped = pattern.strip()
    if stripped[:1] in ("{", "["):
        kind = "JSON" if stripped[0] == "{" else "space-delimited"
        _refuse(
            f'Invalid filter pattern: Clary does not read {kind} patterns. Expected terms, "quoted phrases", '
            f"-exclusions, ?alternatives or a %regular expression%. Received: {pattern!r}"
        )
    wanted: list[Callable[[str], bool]] = []
    unwanted: list[Callable[[str], bool]] = []
    alternatives: list[Callable[[str], bool]] = []
    kinds = {"": wanted, "-": unwanted, "?": alternatives}
    position = 0
    while position < len(stripped):
        token = _TOKEN.match(stripped, position)
        if token is None:
            _refuse(f"Invalid filter pattern: unreadable from character {position + 1} on. Received: {pattern!r}")
        kinds[token["sign"]].append(_term(token))
        position = token.end()
    if wanted or unwanted:
        alternatives = []  # as AWS: a question mark beside other terms is of no account
    return lambda message: (
        all(term(message) for term in wanted)
        and not any(term(message) for term in unwanted)
        and (not alternatives or any(term(message) for term in alternatives))
    )


def _term(token: re.Match[str]) -> Callable[[str], bool]:
    if token["regex"] is not None:
        return _regular_expression(token["regex"])
    text = token["word"] if token["quoted"] is None else re.sub(r"\\(.)", r"\1", token["quoted"])
    return lambda message: text in message


def _regular_expression(source: str) -> Callable[[str], bool]:
    try:
        compiled = regex.compile(source)
    except regex.error as error:
        _refuse(f"Invalid filter pattern: the regular expression {source!r} cannot be read: {error}")

    def matches(message: str) -> bool:
        try:
            return compiled.search(message, timeout=_REGEX_SECONDS) is not None
        except TimeoutError:
            _refuse(f"Invalid filter pattern: the regular expression {source!r} takes too long. Make it simpler.")

    return matches


def _refuse(message: str) -> NoReturn:
    raise AwsError("InvalidParameterException", message)
