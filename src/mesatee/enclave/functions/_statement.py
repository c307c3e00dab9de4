"""One SELECT and nothing else: what the text of a query may say before an engine reads it.

The engine is asked to refuse everything but a query too. This check stands in front of it and needs to trust nobody's
grammar: it splits the text into words, and whatever two parsers could read in two ways is refused. Functions are named
one by one, as an engine has hundreds: among them some that read files, tell the time, or follow pointers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import limits

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<comment>--|/\*|\*/|\#)
    |(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<text>'(?:[^']|'')*')
    |(?P<name>"(?:[^"]|"")+")
    |(?P<end>;)
    |(?P<open>\()
    |(?P<close>\))
    |(?P<sign>::|<>|!=|<=|>=|\|\||[-+*/%<>=.,])
    """,
    re.VERBOSE,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FIRST: Final = _words("select with")
REFUSED: Final = _words(
    """
    alter analyze attach begin call checkpoint comment commit copy create deallocate delete describe detach drop
    execute explain export external force grant import insert install into load merge pragma prepare recursive reset
    revoke rollback set show summarize transaction truncate update use vacuum
    bernoulli reservoir sample system tablesample
    current_catalog current_date current_role current_schema current_time current_timestamp current_user localtime
    localtimestamp session_user user
    """
)
"""Words that begin another statement or a query that may not end, that choose rows at random, or that ask for the time
or the session; a column of such a name stands in quotes."""
CATALOGS: Final = ("duckdb_", "information_schema", "pg_", "sqlite_")
"""How the names of tables begin that are not inputs but the engine's own."""
BEFORE_BRACKETS: Final = _words(
    """
    all and any as between by case cast char cube decimal distinct else except exclude exists extract filter from
    group having in intersect interval is join lateral like limit materialized not numeric offset on or order over
    partition qualify rollup select sets some then try_cast union using values varchar when where window with within
    """
)
"""Words of SQL that a bracket may follow; in front of any other bracket stands the name of a function."""
FUNCTIONS: Final = _words(
    """
    abs acos asin atan atan2 bit_count cbrt ceil ceiling coalesce cos cot degrees even exp factorial floor gamma gcd
    greatest if ifnull isfinite isinf isnan lcm least lgamma ln log log10 log2 mod nextafter nullif pi pow power
    radians round round_even sign sin sqrt tan trunc xor

    ascii bar bit_length chr char_length character_length concat concat_ws contains ends_with format instr left
    left_grapheme length lower lpad ltrim md5 ord overlay position prefix printf regexp_extract regexp_full_match
    regexp_matches regexp_replace repeat replace reverse right right_grapheme rpad rtrim sha1 sha256 split_part
    starts_with strip_accents strlen strpos substr substring suffix translate trim unicode upper
    damerau_levenshtein editdist3 hamming jaccard jaro_similarity jaro_winkler_similarity levenshtein
    to_base base64 from_base64 to_base64 hex unhex

    century date_add date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day dayname
    dayofmonth dayofweek dayofyear decade epoch epoch_ms epoch_ns epoch_us era hour isodow isoyear julian last_day
    make_date make_time make_timestamp microsecond millennium millisecond minute month monthname quarter second
    strftime strptime time_bucket timezone to_days to_hours to_microseconds to_milliseconds to_minutes to_months
    to_seconds to_timestamp to_weeks to_years try_strptime week weekday weekofyear year yearweek

    arg_max arg_min avg bit_and bit_or bit_xor bool_and bool_or corr count count_if countif covar_pop covar_samp
    entropy favg first fsum geomean geometric_mean grouping kahan_sum kurtosis kurtosis_pop last mad max max_by mean
    median min min_by mode percentile_cont percentile_disc product quantile quantile_cont quantile_disc regr_avgx
    regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy sem skewness stddev stddev_pop
    stddev_samp string_agg sum sumkahan var_pop var_samp variance

    cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank rank_dense row_number
    """
)
"""Functions that a query may call: of numbers, texts, times, groups and windows. Each gives the same for the same rows;
none reads anything but its arguments, or makes lists."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A query that may go to the engine, without its last semicolon."""

    text: str
    ordered: bool
    """Whether the outermost query says an order of its rows."""


def checked(query: str) -> Checked:
    """`query` if it is one SELECT. Raises `Malformed` or `TooLarge`; the message says what and where."""
    if len(query) > limits.SQL_CHARS:
        raise TooLarge(f"the query has {len(query)} characters, the limit is {limits.SQL_CHARS}")
    depth, words, place = 0, 0, 0
    previous, before, last = "", "", ""
    ordered = False
    end = len(query)
    while place < end:
        found = _TOKEN.match(query, place)
        if found is None:
            raise _refused(query, place, "a sign that queries do not have, or text without its closing quote")
        kind, token = found.lastgroup, found.group()
        match kind:
            case "comment":
                raise _refused(query, place, "a comment: leave it out")
            case "text" | "name" | "word" | "number" if _touches(before, kind):
                # E'..', x'..', 1a: what they mean depends on who reads them.
                raise _refused(query, place, "something that begins where the word before it has not ended")
            case "word":
                previous = _word(query, place, token, previous, words)
                ordered = ordered or (depth == 0 and previous == "order by")
            case "name" if token[1:-1].lower().startswith(CATALOGS):
                raise _refused(query, place, "a table that is no input")
            case "open":
                if _calls_another(last):
                    raise _refused(query, place, "a function that may not be called" + _hint(last))
                depth += 1
                if depth > limits.SQL_DEPTH:
                    raise TooLarge(f"the query has over {limits.SQL_DEPTH} open brackets")
            case "close":
                depth -= 1
                if depth < 0:
                    raise _refused(query, place, "a bracket that was not opened")
            case "end":
                if query[place + 1 :].strip(" \t\r\n;"):
                    raise _refused(query, place, "a second statement after the semicolon: there is one query")
                end = place
                break
        if kind != "space":
            words += 1
            last = token
        if kind not in ("space", "word"):
            previous = ""
        if words == 1 and kind not in ("space", "word"):
            raise _refused(query, place, "another beginning than SELECT or WITH")
        if words > limits.SQL_WORDS:
            raise TooLarge(f"the query has over {limits.SQL_WORDS} words, numbers and signs")
        before, place = str(kind), found.end()
    if depth or not words:
        raise Malformed("the query lacks a closing bracket" if depth else "the query is empty")
    return Checked(query[:end], ordered)


def _calls_another(token: str) -> bool:
    """Whether a bracket after `token` calls a function that is not among `FUNCTIONS`."""
    if not token or not (token[0] in '"_' or token[0].isalpha()):
        return False
    return token.lower() not in FUNCTIONS | BEFORE_BRACKETS


def _hint(name: str) -> str:
    return f": {name[: limits.NAME_CHARS]}; names of columns are given by AS, one by one"


def _touches(before: str, kind: str | None) -> bool:
    if kind in ("text", "name"):
        return before in ("word", "number", "text", "name")
    return before in ("number", "text", "name")


def _word(query: str, place: int, token: str, previous: str, words: int) -> str:
    """The word in lower case, with ORDER in front of BY. Raises `Malformed`."""
    word = token.lower()
    if not words and word not in FIRST:
        raise _refused(query, place, "another beginning than SELECT or WITH")
    if word.startswith(CATALOGS):
        raise _refused(query, place, "a table that is no input")
    if word in REFUSED:
        raise _refused(
            query, place, f'the word {word}: only one SELECT is allowed (a column stands in quotes: "{word}")'
        )
    return "order by" if (previous, word) == ("order", "by") else word


def _refused(query: str, place: int, what: str) -> Malformed:
    line = query.count("\n", 0, place) + 1
    column = place - (query.rfind("\n", 0, place) + 1) + 1
    return Malformed(f"the query has {what} (line {line}, column {column})")


__all__ = ["FIRST", "REFUSED", "Checked", "checked"]
