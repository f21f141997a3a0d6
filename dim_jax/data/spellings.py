"""Spellings of names: which differ in form only, and which mean that a value is missing."""

import re
import unicodedata

# Words for a missing value in several languages and programs; spreadsheets write the ones that begin with #.
MISSING = frozenset({
    "nan", "na", "n/a", "n.a", "n.a.", "#n/a", "#na", "<na>", "nat", "null", "(null)", "#null!", "nil", "none",
    "(none)", "[none]", "blank", "(blank)", "empty", "#value!", "#ref!", "#name?", "#num!", "#div/0!", "missing",
    "undefined", "unspecified", "unknown", "unkown", "unknwon", "unk", "not known", "not available", "not applicable",
    "not recorded", "tbd", "unbekannt", "fehlt", "fehlend", "keine angabe", "k.a", "k.a.", "inconnu", "inconnue",
    "desconocido", "desconocida", "sconosciuto", "desconhecido", "onbekend",
})  # fmt: skip
MISSING_CODES = frozenset({"-1", "-9", "-99", "-999", "-9999"})
# What a program writes before a missing number: patient_nan.
_PREFIX = re.compile(r"(?:patient|case|group|slide|subject|id)s?[\s_.:-]+")
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"), "-")
_SEPARATORS = r"[\s._/-]+"


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
    return " ".join("".join(characters).split()).strip(" '\"`")


def key(name: str, whole_numbers: bool = False) -> str:
    """Returns a text that is equal for spellings of one name.

    Spellings differ in capitals, Unicode form, leading zeros, and separators (space, `-`, `_`, `.`, `/`), of which one
    is kept between two digits: P1-1 is not P11.

    Args:
      name: the name.
      whole_numbers: whether 7.0 is 7, as programs write whole numbers in columns with missing ones.
    """
    text = plain(name)
    if whole_numbers:
        text = re.sub(r"^([0-9]+)[.,]0+$", r"\1", text)
    sign = "-" if re.match(r"-[0-9]", text) else ""
    text = re.sub(r"[0-9]+", lambda digits: digits[0].lstrip("0") or "0", text)
    text = re.sub(rf"(?<=[0-9]){_SEPARATORS}(?=[0-9])", "\0", text)
    # A name of separators alone remains itself.
    return sign + (re.sub(_SEPARATORS, "", text) or text)


def is_missing_word(name: str) -> bool:
    """Returns whether a name is a word for a missing value, such as nan or unknown."""
    text = plain(name)
    return bool({text, _PREFIX.sub("", text, count=1)} & MISSING)


def is_missing(name: str) -> bool:
    """Returns whether a group means that there is none: a word for it, no letter and no digit, or a code such as -1."""
    text = plain(name)
    return (
        is_missing_word(name)
        or text in MISSING_CODES
        or not any(unicodedata.category(character)[0] in "LN" for character in text)
    )


def has_fraction(name: str) -> bool:
    """Returns whether a name is a number that is not whole, such as 7.5."""
    return re.fullmatch(r"[0-9]+[.,][0-9]*[1-9][0-9]*", plain(name)) is not None


def has_lost_digits(name: str) -> bool:
    """Returns whether a name is a long number as spreadsheets shorten it, such as 2.01235E+11."""
    return re.fullmatch(r"[0-9]([.,][0-9]+)?e\+[0-9]+", plain(name)) is not None
