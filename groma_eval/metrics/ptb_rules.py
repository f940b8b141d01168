"""The token kinds of English text in the Penn Treebank tokenizer of the COCO caption evaluation: one rule a kind.

A rule is a regular expression tried where the last token ended. Of all rules the one that reaches farthest wins, the
earlier of equals. Its group 1 is the token; whatever is matched behind the group (a clitic, the space after an
abbreviation) is left for the next token but counts towards how far the rule reaches.

Rules read a text's shape (``ptb_shape``) rather than the text. They ignore case except where they say ``(?-i:...)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

# --- Word lists -------------------------------------------------------------------------------------------------------
# Abbreviations that keep their full stop wherever they stand. Those of the first kind end a sentence more often, and
# hold on to the stop harder: "rd.a b" is "rd. a b", but "st.a b" is "st.a b".
ABBREVIATIONS = frozenset(
    """
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri
    ala ariz calif colo conn ct dak fla ga ind kan kans ky md mich minn mo mont neb nev okla penn tenn va vt wis wisc
    wyo inc co cos corp ltd plc rt bancorp bhd assn univ intl sys tel est ext sq jr sr bros esq etc al seq bldg blvd rd
    """.split()  # noqa: SIM905
)
TITLES = frozenset(
    """
    mr mrs ms dr drs prof profs sen sens rep reps atty attys lt col gen messrs gov govs adm rev maj sgt cpl pvt capt st
    ste ave pres lieut hon brig cmdr comdr pfc spc supt supts det mt ft adj adv asst assoc ens insp mlle mme msgr sfc
    invt elec natl dept vs alex wm jos cie cf treas ph
    """.split()  # noqa: SIM905
)
# These keep it only with their capital: in lower case they are words.
CAPITAL_ABBREVIATIONS = frozenset({"az", "ark", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash"})
# These keep it only before a number.
COUNTING = frozenset({"art", "ca", "fig", "figs", "no", "nos", "op", "pp", "prop"})
# A letter and a full stop before one of these, with a capital, are two tokens ("plan B. The dog"): a sentence ends.
_OPENERS = """
    about according additionally after an a as at but earlier he her here however if in it last many more mr. ms. now
    once one other our she since so some such that the their then there these they this we when while what yet you
"""
# Two tokens written as one, and the length of the first.
FUSED = {"cannot": 3, "gonna": 3, "gotta": 3, "lemme": 3, "gimme": 3, "wanna": 3, "'tis": 2, "'twas": 2}
# Endings that make a file's name of what stands before them.
_FILE_ENDINGS = """
    bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql
    tar txt wav x xml zip
"""


def _any_of(words: Iterable[str], case: bool = False) -> str:
    """An expression for any of ``words``; with ``case`` their first letter must be a capital."""
    ordered = sorted(words, key=len, reverse=True)
    return "(?:" + "|".join((f"(?-i:{w[0].upper()})" if case else w[0]) + re.escape(w[1:]) for w in ordered) + ")"


# --- Parts of rules ---------------------------------------------------------------------------------------------------
_GAP = "[ \t\xa0\u2003\n]"  # a space or a line's end
_D = "[0-9٠]"
_L = "[a-zé]"
_LD = "[a-z0-9é٠]"
_ENTITY = "&[aeiou](?:acute|grave|uml);"
_IN_WORD = f"(?:[a-z0-9é\u0301\xad٠]|{_ENTITY})"
_WORD_PART = f"(?:[a-zé\u0301\xad]|{_ENTITY}){_IN_WORD}*"
_WORD = f"{_WORD_PART}(?:[.!?]{_WORD_PART})*"
_TICK = "(?:['’]|&apos;)"
_ANY_TICK = "(?:['’‘`]|&apos;)"
_CLITIC = f"{_TICK}(?:[msd]|re|ve|ll)"
_NOT = f"n{_ANY_TICK}t"
_INITIALS = r"(?:[a-z](?:\.[a-z])+|(?:canada|sino|korean|eu|japan|non)-u\.s|u\.s\.-(?:u\.k|u\.s\.s\.r))"
_SHORT = rf"(?:(?:ed|ph)\.d|p?pt(?-i:[ye])s?|{_any_of(ABBREVIATIONS)}|{_any_of(CAPITAL_ABBREVIATIONS, case=True)})"
_NUMERAL = f"(?:{_D}+(?:[.:,\xad٫]{_D}+)*|(?:[.:,\xad٫]{_D}+)+)"
_COMPOUND_PART = f"(?:[dol]{_ANY_TICK}{_LD})?{_LD}+"
_COMPOUND = f"{_COMPOUND_PART}(?:[-_‐]{_COMPOUND_PART})*"
_HYPHENATED = f"[a-z0-9][a-z0-9.,\xad]*(?:-(?:{_INITIALS}\\.|[a-z0-9\xad]+))+"
_SLASHED_PART = "[a-z0-9]+(?:-[a-z]+){0,2}"
_LETTERS_AND = "(?-i:[A-Z])+(?:(?:&amp;|[+&])(?-i:[A-Z])+)+"
_BREAK = "[,;:、]"
_NAME = "[a-z][a-z0-9_:.-]*"
_VALUE = "['\"][^\n'\"]*['\"]"
_TAG = f"<(?:[!?][a-z-][^>\n]*|/{_NAME} *|{_NAME}(?: +(?:{_NAME}(?: *= *{_VALUE})?))* */? *)>"
_IN_URL, _ENDS_URL = r"""[^ \t\n"<>|()]""", r"""[^ \t\n"<>|.!?(){},-]"""
_SITE = r"""(?:www\.(?:[^ \t\n"<>|.!?(){},]+\.)+[a-z]{2,4}|(?:(?-i:[^ \t\n"`'<>|!(){},-_$])+\.)+(?:com|net|org|edu))"""
_IN_MAIL = r"""[^ \t\n"<>|(){}\xa0]"""
_MAIL_PART = r"""[^ \t\n"<>|(){}.\xa0]+"""
_PHONE = (
    r"(?:\([0-9]{2,3}\)[ \xa0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0])[0-9]{3,4}[- \xa0]?[0-9]{3,5}"
    r"|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"
)


# --- What becomes of a token ------------------------------------------------------------------------------------------
_WRITTEN = str.maketrans(
    {"¢": "cents", "£": "#", "¤": "$", "₠": "$", "€": "$", "\x80": "$"}
    | {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
    | dict.fromkeys("‘‛‹\x91", "`")
    | dict.fromkeys("’›\x92", "'")
    | dict.fromkeys("“«\x93", "``")
    | dict.fromkeys("”»\x94", "''")
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


def _written(token: str) -> str:
    return token.replace("&apos;", "'").translate(_WRITTEN)


def _word(token: str) -> str:
    return token.replace("\xad", "") or "-"


def _ampersand(token: str) -> str:
    return re.sub("&amp;", "&", token, flags=re.IGNORECASE)


def _together(token: str) -> str:
    """One token of several words: its spaces become no-break spaces, round brackets are spelt."""
    return token.replace(" ", "\xa0").replace("(", "-lrb-").replace(")", "-rrb-")


def _fixed(token: str) -> Callable[[str], str]:
    return lambda _: token


class Rule(NamedTuple):
    """A kind of token. ``starts`` is a class of the characters it may start with."""

    starts: str
    pattern: str
    becomes: Callable[[str], str] = _word


_RULES = [
    *(Rule("[cglw']", f"({word[:at]}){word[at:]}") for word, at in FUSED.items()),
    Rule("<", _TAG, _together),
    Rule("[&–]", "&(?:md|[mn]dash);|–", _fixed("--")),
    Rule("&", "&amp;", _fixed("&")),
    Rule("&", "&nbsp;", _fixed("")),
    Rule("&", "&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq|#[0-9]+);"),
    # Words, before a clitic or by themselves.
    Rule("[a-zé\u0301\xad&]", f"({_WORD}){_CLITIC}"),
    Rule("[a-z\xad]", f"([a-z\xad]*(?!n)[a-z]\xad*){_NOT}"),
    Rule("[a-zé\u0301\xad&]", _WORD),
    # Words with an apostrophe of their own.
    Rule("[&'’]", f"{_TICK}(?:n{_TICK}?|em|till?|cause|[2-9]0s)", str),
    Rule("[ldj]", f"[ldj]{_TICK}", str),
    Rule("[cdelnos]", f"(?:dunkin|somethin|ol){_TICK}|cont'd\\.|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l", str),
    Rule("o", f"o{_ANY_TICK}o", str),
    Rule("[a-z]", f"(?-i:[A-HJ-XZn]){_ANY_TICK}{_L}{{2,}}", str),
    Rule("[a-zé]", f"{_L}+[aeiouy]{_ANY_TICK}(?-i:[aeiouA-Z]){_L}*", str),
    Rule("y", f"(y{_TICK}){_L}", str),
    # Addresses.
    Rule("h", r"""https?://[^ \t\n"<>|(){}]+""" + _ENDS_URL, str),
    Rule("[^ ]", f"{_SITE}/{_IN_URL}+{_ENDS_URL}", str),
    Rule("[^ ]", _SITE, str),
    Rule("[a-z0-9<&]", rf"(?:<|&lt;)?[a-z0-9]{_IN_MAIL}*@{_MAIL_PART}(?:\.{_MAIL_PART})*(?:>|&gt;)?", str),
    Rule("@", "@[a-z_][a-z_0-9]*", str),
    Rule("#", f"#(?:[a-zé\u0301\xad]|{_ENTITY})+", str),
    # Clitics.
    Rule("[&'’]", f"({_CLITIC})[^a-z]", _written),
    Rule("n", f"({_NOT})[^a-z]", _written),
    # Numbers.
    Rule(_D, f"{_D}{{1,2}}[-/]{_D}{{1,2}}[-/]{_D}{{2,4}}", str),
    Rule("[-+.,:0-9٠٫\xad]", f"[-+]?{_NUMERAL}"),
    Rule("[⁺²₂]", "⁺?(?:²+|₂+)", str),
    Rule(_D, rf"(?:{_D}{{1,4}}[- \xa0])?{_D}{{1,4}}(?:\\?/|⁄){_D}{{1,4}}", _together),
    # Words with signs.
    Rule("[acps]", f"c\\.d\\.s|pro-|anti-|s(?:&|&amp;)p-500|s(?:&|&amp;)ls|cap{_TICK}n|c{_TICK}est", _ampersand),
    Rule("[cf]", r"c\+\+|[cf]#", str),
    Rule("-", "-(?:[lr][rcs]b)-", str),
    Rule("[a-z0-9]", rf"{_SLASHED_PART}(?:\\?/{_SLASHED_PART}){{1,2}}", str),
    Rule("[a-z$#]", r"(?-i:[A-Z])*\$|\#", str),
    # Abbreviations.
    Rule("[a-z]", f"([a-z])\\.{_GAP}+(?:{_any_of(_OPENERS.split(), case=True)}|{_TAG}){_GAP}"),
    Rule("[acfnop]", f"({_any_of(COUNTING)}\\.){_GAP}?{_D}"),
    Rule("[a-z]", f"({_SHORT}\\.)[\\s\\S]{{2}}"),
    Rule("[a-z]", f"(?:{_SHORT}|{_INITIALS}|[a-z]|{_any_of(TITLES)}|m(?-i:[ft])g)\\."),
    Rule("[a-z]", f"({_INITIALS}){_GAP}"),
    Rule("[&'’]", f"({_TICK}[0-9]{{2}}){_GAP}", str),
    Rule(
        "[a-z0-9é\u0301\xad٠&]",
        f"({_IN_WORD}+(?:\\.{_IN_WORD}+)*\\.{_any_of(_FILE_ENDINGS.split())})(?:{_GAP}|[.?!,])",
        str,
    ),
    Rule("[a-zé\u0301\xad&]", f"({_WORD}\\.){_BREAK}"),
    Rule("[0-9(+]", _PHONE, _together),
    # Faces.
    Rule("[<>:;=]", r"([<>]?[:;=](?-i:[-o*'])?(?-i:[()DPdpO\\{@|\[\]]))[^a-z0-9]", _together),
    Rule(
        "[-^x=~<>'(]",
        r"(?-i:[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\))",
        _together,
    ),
    # Marks.
    Rule('"', '"', _fixed("''")),
    Rule("&", "(?-i:&quot;)", _fixed("''")),
    Rule("&", "&quot;", str),
    Rule("[<&]", "<|&lt;", _fixed("<")),
    Rule("[>&]", ">|&gt;", _fixed(">")),
    Rule("[<>]", "<<|>>", str),
    Rule(r"[()\[\]{}]", r"[()\[\]{}]", _BRACKETS.__getitem__),
    Rule("-", "-{3,4}", _fixed("--")),
    Rule("-", "-+", str),
    Rule("[.…]", r"\.{3,5}|…|(?:\.[ \xa0]){2,4}\.", _fixed("...")),
    Rule("[@#_*]", r"@+|\#+|_+|\*+", str),
    Rule(r"\\", r"(?:\\\*){1,3}", str),
    Rule("[?!]", "[?!]+", str),
    # Words and numbers with hyphens.
    Rule("[a-z0-9]", f"({_HYPHENATED}\\.){_BREAK}"),
    Rule("[a-z0-9]", _HYPHENATED),
    Rule("[a-z0-9é٠]", f"({_COMPOUND}\\.){_BREAK}", str),
    Rule("[a-z0-9é٠]", _COMPOUND, str),
    Rule("[a-z]", f"({_LETTERS_AND}\\.){_BREAK}", _ampersand),
    Rule("[a-z]", _LETTERS_AND, _ampersand),
    # Quotes; they count as far as the two characters behind them, which must not make a clitic of them.
    Rule("'", f"('){_L}[^ \t\n\xa0]", str),
    Rule("[&'’‘“`]", f"''|[`‘’“]{{1,2}}|{_TICK}", _written),
    Rule("[&'’]", _CLITIC, _written),
    Rule("n", _NOT, _written),
    # Whatever else is a token by itself.
    Rule(r"[§²⁺⁄、!$-/:-@\\^`|~]", r"[§²⁺⁄、!$-/:-@\\^`|~]", _written),
]


@lru_cache(maxsize=256)
def rules_for(start: str) -> list[tuple[re.Pattern[str], Callable[[str], str]]]:
    """The rules of tokens that may start with ``start``, in their order."""
    return [
        (re.compile(rule.pattern, re.IGNORECASE), rule.becomes)
        for rule in _RULES
        if re.match(rule.starts, start, re.IGNORECASE)
    ]
