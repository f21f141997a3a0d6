"""Spellings of names: which differ in form only, and which mean that a value is missing."""

import re
import unicodedata
from collections.abc import Iterable

# Words for a missing value in several languages and programs; spreadsheets write the ones that begin with #.
MISSING = frozenset({
    "nan", "na", "n/a", "n.a", "n.a.", "#n/a", "#na", "<na>", "nat", "null", "#null!", "nil", "none", "blank", "empty",
    "#value!", "#ref!", "#name?", "#num!", "#div/0!", "missing", "undefined", "unspecified", "unidentified", "unknown",
    "unkown", "unknwon", "unk", "not known", "not available", "not applicable", "not recorded", "not reported",
    "not specified", "not provided", "tbd", "unbekannt", "nicht bekannt", "fehlt", "fehlend", "keine angabe", "inconnu",
    "inconnue", "desconocido", "desconocida", "sconosciuto", "desconhecido", "onbekend",
})  # fmt: skip
MISSING_CODE = "-1"  # of programs that number groups
# What may mean that a value is missing, and may also be a name, initials or a number. Without accents.
DOUBTFUL = frozenset({
    "k.a", "k.a.", "n.d", "n.d.", "nd", "n/d", "n.k", "n.k.", "o.a", "o.a.", "s/d", "s/n", "x", "xx", "xxx", "leer",
    "vide", "vacio", "vuoto", "vazio", "leeg", "tom", "brak", "yok", "puste", "keine", "ohne", "sans", "sin dato",
    "okand", "ukendt", "ukjent", "nieznany", "neznamy", "ismeretlen", "bilinmiyor", "tuntematon", "ignoto", "other",
    "others", "andere", "sonstige", "misc", "various", "diverse", "mixed", "default", "dummy", "todo", "anonymous",
    "anonym", "anon", "unnamed", "no name", "no id", "patient", "case", "group", "slide", "subject", "id", "нет",
    "неизвестно", "не указано", "不明", "未知", "無", "无", "なし", "없음", "00.01.1900", "1/0/1900", "01/00/1900",
    "1900-01-00", "01.01.1970", "1970-01-01",
})  # fmt: skip
_DOUBTFUL_CODE = re.compile(r"-?([789])\1+|-[2-9]|0")
# What a program writes before a missing number: patient_nan.
_PREFIX = re.compile(r"(?:patient|case|group|slide|subject|id)s?[\s_.:-]+")
# Words before a number that another list may leave out.
_TITLE = re.compile(r"^(?:(?:patient|patienten|case|fall|group|slide|subject|pat|id|no|nr)-*)+(?=[0-9])")
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:[.,' ][0-9]{3})+")
_MONTH = r"(?:jan|feb|mar|mrz|apr|mai|may|jun|jul|aug|sep|sept|oct|okt|nov|dec|dez)\.?"
_DATE = re.compile(rf"[0-9]{{1,2}}[-. ]+{_MONTH}(?:[-. ]+[0-9]{{2,4}})?|{_MONTH}[-. ]+[0-9]{{2,4}}")
# Letters of other scripts with the form of Latin ones, and letters with strokes.
_LATIN = str.maketrans("авекмнорстухіѕјαβεικνορτυχøłđ", "abekmhopctyxisjabeikvoptyxold")
_SYMBOLS = frozenset("~^`|$´¨°¦¬")  # punctuation, unlike + or <
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"), "-")
_SEPARATORS = r"[\s._/\\#-]+"


def composed(name: str) -> str:
    """Returns a name in Unicode's composed form (NFC), in which keyboards write accents."""
    return unicodedata.normalize("NFC", name)


def plain(name: str) -> str:
    """Returns a name in small letters, with compatible characters (full-width ones, no-break spaces), decimal digits of
    any script and dashes replaced by the common ones, without invisible characters and spaces or quotes around it."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).translate(_DASHES)
    characters = (
        str(unicodedata.decimal(character, character))
        for character in folded
        if unicodedata.category(character) != "Cf"
    )
    return " ".join("".join(characters).split()).strip(" '\"`\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb")


def key(name: str, whole_numbers: bool = False) -> str:
    """Returns a text that is equal for spellings of one name.

    Spellings differ in capitals, Unicode form, leading zeros, a plus sign before a number, and separators (space, `-`,
    `_`, `.`, `/`, `\\`, `#`), of which one is kept between two digits: P1-1 is not P11.

    Args:
      name: the name.
      whole_numbers: whether 7.0 is 7, as programs write whole numbers in columns with missing ones.
    """
    text = plain(name)
    if whole_numbers:
        text = _without_zero_fraction(text)
    sign = "-" if re.match(r"\W*-[0-9]", text) else ""
    return sign + _joined(re.sub(r"^\+(?=[0-9])", "", text))


def lookalike_key(name: str) -> str:
    """Returns a text that is equal for names that may be spellings of one name, and may be two.

    They differ as spellings do (see `key`), in accents (ü is u or ue), in any punctuation, in the sign of a number, in
    words such as "patient" before a number, or in letters of other scripts that have the form of Latin ones.
    """
    text = re.sub("(?<=[aou])e", "", unaccented(plain(name).translate(_LATIN)))
    text = re.sub(r"^\+(?=[0-9])", "", _without_zero_fraction(text))
    text = re.sub(r"[.,' ]", "", text) if _THOUSANDS.fullmatch(text) else text
    dashed = "".join("-" if unicodedata.category(each)[0] in "PZ" or each in _SYMBOLS else each for each in text)
    return _joined(_TITLE.sub("", dashed.strip("-")) or text)


def lookalikes(names: Iterable[str]) -> list[str]:
    """Returns a text such as "'P1' and 'P(1)'" for each set of different names that look alike."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(lookalike_key(name), []).append(name)
    return [" and ".join(map(ascii, same)) for same in alike.values() if len(same) > 1]


def _joined(text: str) -> str:
    """Returns a text without leading zeros and separators; one separator is kept between two digits."""
    text = re.sub(r"[0-9]+", lambda digits: digits[0].lstrip("0") or "0", text)
    text = re.sub(rf"(?<=[0-9]){_SEPARATORS}(?=[0-9])", "\0", text)
    # A name of separators alone remains itself.
    return re.sub(_SEPARATORS, "", text) or text


def _without_zero_fraction(text: str) -> str:
    return re.sub(r"^([+-]?[0-9]+)[.,]0+$", r"\1", text)


def unaccented(text: str) -> str:
    """Returns a text without accents and other marks on letters."""
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", "".join(each for each in decomposed if unicodedata.category(each) != "Mn"))


def is_missing_word(name: str) -> bool:
    """Returns whether a name is a word for a missing value, such as nan or unknown, perhaps in brackets."""
    text = plain(name)
    return bool({text, _PREFIX.sub("", text, count=1), text.strip("()[]{}<>*! ")} & MISSING)


def is_missing(name: str) -> bool:
    """Returns whether a group means that there is none: a word for it, no letter and no digit, or -1."""
    return (
        is_missing_word(name)
        or _without_zero_fraction(plain(name)) == MISSING_CODE
        or not any(unicodedata.category(character)[0] in "LN" for character in plain(name))
    )


def may_be_missing(name: str) -> bool:
    """Returns whether a name may mean that a value is missing, and may also be a name: k.A., -9, 999 or 0."""
    text = _without_zero_fraction(unaccented(plain(name)))
    return text in DOUBTFUL or text.replace(" ", "") in DOUBTFUL or _DOUBTFUL_CODE.fullmatch(text) is not None


def is_negative(name: str) -> bool:
    """Returns whether a name begins with a number below 0."""
    return re.match(r"-[0-9]", plain(name)) is not None


def has_fraction(name: str) -> bool:
    """Returns whether a name is a number that is not whole, such as 7.5."""
    return re.fullmatch(r"[0-9]+[.,][0-9]*[1-9][0-9]*", plain(name)) is not None


def is_date(name: str) -> bool:
    """Returns whether a name is a date with a month in letters, as spreadsheets write 3-1: 3-Jan or Jan 03."""
    return _DATE.fullmatch(unaccented(plain(name))) is not None


def has_lost_digits(name: str) -> bool:
    """Returns whether a name is a long number as spreadsheets shorten it, such as 2.01235E+11."""
    return re.fullmatch(r"[0-9]([.,][0-9]+)?e\+[0-9]+", plain(name)) is not None
