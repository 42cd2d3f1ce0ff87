"""What a query asks for and what fits it (PS3.4 section C.2.2.2), for C-FIND and QIDO-RS alike."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from medzip.gateway.headers import LEVELS
from medzip.gateway.index import Index

ORDER = ("PATIENT", "STUDY", "SERIES", "IMAGE")
COUNTS = {
    "NumberOfPatientRelatedStudies": ("PATIENT", "studies WHERE patient = ?"),
    "NumberOfStudyRelatedSeries": ("STUDY", "series WHERE study = ?"),
    "NumberOfStudyRelatedInstances": ("STUDY", "instances WHERE study = ?"),
    "NumberOfSeriesRelatedInstances": ("SERIES", "instances WHERE study = ? AND series = ?"),
}
"""Numbers that are counted where they are asked for: the level that they are of, and where."""
MODALITIES = "ModalitiesInStudy"
UIDS = {"StudyInstanceUID": "study", "SeriesInstanceUID": "series", "SOPInstanceUID": "uid", "SOPClassUID": "class"}
RANGES = {"DA", "TM"}
DIGITS = 14
WILDCARDS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"}
NUMBERS = {"IS", "DS", "US", "UL", "SS", "SL", "FL", "FD"}
BATCH = 1000


@dataclass(frozen=True)
class Query:
    """`keys` maps keywords to what is asked for, empty for anything; other keywords than those that are kept fit always."""

    level: str
    keys: Mapping[str, str]

    def known(self) -> set[str]:
        """Keywords that are kept of this level and those above, or counted."""
        above = ORDER[: ORDER.index(self.level) + 1]
        counted = {keyword for keyword, (level, _) in COUNTS.items() if level in above}
        return {keyword for level in above for keyword in LEVELS[level]} | counted | {MODALITIES}


def find(index: Index, query: Query) -> Iterator[dict[str, str]]:
    """Values by keyword of all that fits, in an order that does not change. Raises what `Index.select` raises."""
    conditions, values = _conditions(query)
    where = " AND ".join(conditions) or "1"
    asked = query.known() & query.keys.keys()
    patients: set[str] = set()
    after: tuple[str, ...] | None = None
    while True:
        rows = list(index.select(*_statement(query.level, where, values, after)))
        for row in rows:
            found: dict[str, str] = {}
            for facts in row[3:]:
                found |= json.loads(facts)
            if query.level == "PATIENT":
                if found.get("PatientID", "") in patients:
                    continue
                patients.add(found.get("PatientID", ""))
                found = {keyword: value for keyword, value in found.items() if keyword in LEVELS["PATIENT"]}
            _count(index, query, found, row)
            if all(fits(keyword, query.keys[keyword], found.get(keyword, "")) for keyword in asked):
                yield found
        if len(rows) < BATCH:
            return
        after = tuple(rows[-1][: _depth(query.level)])


def fits(keyword: str, pattern: str, value: str) -> bool:
    """Whether a value fits what is asked of an attribute."""
    if not pattern.strip("*"):
        return True
    if not value:
        return False
    kind = _kind(keyword)
    if kind == "UI":
        return value in pattern.split("\\")
    values = value.split("\\")
    if kind in RANGES:
        return any(_in_range(pattern, one) for one in values)
    if kind in NUMBERS:
        return any(_same_number(pattern, one) for one in values)
    if kind == "PN":
        names = [part for one in values for part in (one, *one.split("="))]
        return any(_like(_name(part)).fullmatch(_name(name)) for part in pattern.split("\\") for name in names)
    patterns = pattern.split("\\") if kind == "CS" or keyword == MODALITIES else [pattern]
    return any(_like(part).fullmatch(one.strip()) for part in patterns for one in values)


def _kind(keyword: str) -> str:
    from pydicom.datadict import dictionary_VR

    return "CS" if keyword == MODALITIES else str(dictionary_VR(keyword))


def _name(text: str) -> str:
    """Names fit whatever their case, and whether or not empty components end them."""
    return text.casefold().strip().rstrip("^").strip()


def _like(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"([*?])", pattern.strip())
    return re.compile("".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in parts), re.DOTALL)


def _in_range(pattern: str, value: str) -> bool:
    """Dates and times as texts: 20260102, 101500.25 (PS3.5 section 6.2), or as ACR-NEMA wrote them, 2026.01.02 and 10:15:00."""
    low, dash, high = (re.sub("[.:]", "", part).strip() for part in pattern.partition("-"))
    plain = re.sub("[.:]", "", value).strip().ljust(DIGITS, "0")
    if not dash:
        return plain == low.ljust(DIGITS, "0")
    return low.ljust(DIGITS, "0") <= plain and (not high or plain <= high.ljust(DIGITS, "9"))


def _same_number(pattern: str, value: str) -> bool:
    try:
        return float(pattern) == float(value)
    except ValueError:
        return pattern.strip() == value.strip()


def _conditions(query: Query) -> tuple[list[str], list[str]]:
    """What SQLite can decide; the rest is looked at one by one."""
    tables = {"study": "studies.uid", "series": "series.uid", "uid": "instances.uid", "class": "instances.class"}
    joined = {"PATIENT": 1, "STUDY": 1, "SERIES": 2, "IMAGE": 4}[query.level]
    conditions, values = [], list[str]()
    for keyword, column in list(UIDS.items())[:joined]:
        if uids := query.keys.get(keyword, "").strip("*"):
            several = uids.split("\\")
            conditions.append(f"{tables[column]} IN ({', '.join('?' * len(several))})")
            values += several
    for keyword, column in (("PatientID", "studies.patient"), ("AccessionNumber", "studies.accession")):
        pattern = query.keys.get(keyword, "").strip()
        if pattern and not re.search(r"[*?\\]", pattern):
            conditions.append(f"{column} = ?")
            values.append(pattern)
    low, dash, high = query.keys.get("StudyDate", "").strip().partition("-")
    for limit, sign in ((low, ">=" if dash else "="), (high, "<=")):
        if re.fullmatch(r"\d{8}", limit):
            conditions.append(f"(studies.date {sign} ? OR studies.date LIKE '%.%')")
            values.append(limit)
    return conditions, values


def _depth(level: str) -> int:
    return {"PATIENT": 1, "STUDY": 1, "SERIES": 2, "IMAGE": 3}[level]


def _statement(level: str, where: str, values: list[str], after: tuple[str, ...] | None) -> tuple[str, list[str]]:
    """Study, series and instance UID of a batch of rows behind `after`, and the facts of each level."""
    keys = ["studies.uid", "series.uid", "instances.uid"][: _depth(level)]
    facts = ["studies.facts", "series.facts", "instances.facts"][: _depth(level)]
    joins = [
        " JOIN series ON series.study = studies.uid",
        " JOIN instances ON instances.study = series.study AND instances.series = series.uid",
    ]
    columns = [*keys, *["''"] * (3 - len(keys)), *facts]
    beyond = f" AND ({', '.join(keys)}) > ({', '.join('?' * len(keys))})" if after else ""
    statement = (
        f"SELECT {', '.join(columns)} FROM studies{''.join(joins[: _depth(level) - 1])} WHERE {where}{beyond}"
        f" ORDER BY {', '.join(keys)} LIMIT {BATCH}"
    )
    return statement, [*values, *(after or ())]


def _count(index: Index, query: Query, found: dict[str, str], row: tuple[str, ...]) -> None:
    for keyword, (level, where) in COUNTS.items():
        if keyword in query.keys and keyword in query.known():
            identity = {"PATIENT": [found.get("PatientID", "")], "STUDY": [row[0]], "SERIES": list(row[:2])}[level]
            found[keyword] = str(next(index.select(f"SELECT count(*) FROM {where}", identity))[0])
    if MODALITIES in query.keys and query.level != "PATIENT":
        modalities = index.select("SELECT DISTINCT modality FROM series WHERE study = ? ORDER BY modality", [row[0]])
        found[MODALITIES] = "\\".join(modality for (modality,) in modalities if modality)
