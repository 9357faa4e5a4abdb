"""Finds telephone, account, card and network numbers in a text, and tells them from numbers that only look so."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterator

from llmjobs.instructions.rules.credentials import Span

_IBAN_TABLE = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29
ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20
LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25
QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 SD18 DJ27
RU33 SO23 NI28 MN20 FK18 OM23 YE30 BI27
"""
_IBAN_LENGTHS = {code[:2]: int(code[2:]) for code in _IBAN_TABLE.split()}
"""Country -> characters of its IBAN. Source: SWIFT, IBAN Registry, release 97."""

_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?= ?[A-Z0-9])")


def ibans(text: str) -> Iterator[Span]:
    """Yield where account numbers stand whose length is their country's and whose checksum (ISO 7064) is right."""
    for match in _IBAN_START.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2])
        end = _end_of(text, match.start(), length) if length else None
        if end and _remainder_97(text[match.start() : end]) == 1:
            yield match.start(), end


def _end_of(text: str, begin: int, length: int) -> int | None:
    """Return where `length` capitals and digits end, single spaces between them left out; None where they do not."""
    seen, position = 0, begin
    while position < len(text) and seen < length:
        character = text[position]
        if character.isascii() and (character.isdigit() or character.isupper()):
            seen += 1
        elif character not in " -" or text[position - 1] in " -":
            return None
        position += 1
    follows = text[position : position + 1]
    return position if seen == length and not (follows.isascii() and follows.isalnum()) else None


def _remainder_97(iban: str) -> int:
    plain = re.sub(r"[ -]", "", iban)
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97


_CARD = re.compile(r"(?<![0-9A-Za-z.,_/+-])(?<![0-9] )[0-9](?:[ -]?[0-9]){12,18}(?![0-9A-Za-z_/]|[ .,-][0-9])")
_ISSUERS = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"
    r"|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11}|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"
    r"|6(?:011|4[4-9][0-9]|5[0-9]{2})[0-9]{12,15}|62[0-9]{14,17}|(?:5018|5020|5038|6304|6759|676[1-3])[0-9]{9,15}"
)
"""Visa, Mastercard (both ranges), Amex, Diners, JCB, Discover, UnionPay, Maestro. Source: ISO/IEC 7812, issuers."""

_GROUPED = re.compile(r"[0-9]+|(?:[0-9]{4}([ -]))(?:[0-9]{4}\1){2,3}[0-9]{1,7}|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5}")


def cards(text: str) -> Iterator[Span]:
    """Yield where card numbers stand: 13 to 19 digits of an issuer, grouped as on a card, checksum (Luhn) right."""
    for match in _CARD.finditer(text):
        digits = re.sub(r"[ -]", "", match[0])
        if _GROUPED.fullmatch(match[0]) and _ISSUERS.fullmatch(digits) and _luhn(digits):
            yield match.span()


def _luhn(digits: str) -> bool:
    total = sum(
        int(digit) if place % 2 == 0 else sum(divmod(2 * int(digit), 10))
        for place, digit in enumerate(reversed(digits))
    )
    return total % 10 == 0


_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?<![0-9A-Za-z.,_-])(?:{_OCTET}\.){{3}}{_OCTET}(?![0-9A-Za-z_]|[.,-][0-9A-Za-z])")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:]|\.[0-9])")
_VERSION_BEFORE = re.compile(
    r"(?i)(?:\bv(?:er(?:sion)?s?)?|release|firmware|build|driver|section|chapter|[a-z]/)[\W_]{0,3}$"
)
_HEADING_AFTER = re.compile(r"[ \t]+[A-Z][a-z]")
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")


def ip_addresses(text: str) -> Iterator[Span]:
    """Yield where public addresses stand: no private, loopback or documentation ranges, no versions or headings."""
    for match in _IPV4.finditer(text):
        if ipaddress.IPv4Address(match[0]).is_global and not _counts_something(text, *match.span()):
            yield match.span()
    for match in _IPV6.finditer(text):
        try:
            address = ipaddress.IPv6Address(match[0])
        except ValueError:
            continue
        if address in _PUBLIC_IPV6 and address.is_global and match[0].count(":") > 2:
            yield match.span()


def _counts_something(text: str, begin: int, end: int) -> bool:
    """Return whether a dotted quad is a version, or the number of a heading (``1.2.3.4 Scope``)."""
    before = text[max(0, begin - 16) : begin]
    if _VERSION_BEFORE.search(before) and not before.endswith("//"):
        return True
    small = all(int(octet) <= 20 for octet in text[begin:end].split("."))
    starts_line = not before.rpartition("\n")[2].strip(" #*\t")
    return small and starts_line and _HEADING_AFTER.match(text, end) is not None


_GAP = r"[ .\-/\u00a0\u2010-\u2015]"
_PHONE = re.compile(
    rf"(?<![0-9A-Za-z_.,#$%€£¥/=*^+-])(?:"
    rf"(?P<world>\+[1-9](?:{_GAP}{{0,2}}\(?[0-9]\)?){{7,14}})"
    rf"|(?P<exit>00[1-9][0-9]{{0,2}}{_GAP}(?:{_GAP}?[0-9]){{6,12}})"
    rf"|(?P<us>(?:1{_GAP})?(?:\([0-9]{{3}}\){_GAP}?[0-9]{{3}}{_GAP}[0-9]{{4}}"
    r"|[0-9]{3}-[0-9]{3}-[0-9]{4}|[2-9][0-9]{2}\.[0-9]{3}\.[0-9]{4}))"
    rf"|(?P<french>0[1-9](?P<between>[ .-])(?:[0-9]{{2}}(?P=between)){{3}}[0-9]{{2}})"
    rf"|(?P<trunk>\(?0[1-9][0-9]{{1,3}}\)?(?:[ /-][0-9]{{3,4}}){{2}}|\(?0[1-9][0-9]{{1,3}}\)?[ ]?[/-][ ]?[0-9]{{6,8}}"
    rf"|0[1-9][0-9]{{2,4}}[ ][0-9]{{6,8}})"
    r"|(?P<chinese>1[3-9][0-9](?P<pause>[ -]?)[0-9]{4}(?P=pause)[0-9]{4})"
    rf"|(?P<bare>\(?[0-9](?:{_GAP}?[()]?[0-9]){{6,13}})"
    r")(?![0-9A-Za-z_%]|[.,/:=+*^-][0-9]|[ ]?[+*/=^\u00d7\u00f7])"
)
_NAMED = re.compile(
    r"(?i)(?:\b(?:tele)?phones?|\btel|\bmobiles?|\bcell(?:phone)?|\bfax|\bwhats ?app|\bhotline|\bcall|\bdial|\btext|"
    r"\bsms|telefon\w*|tel[eé]fono|m[oó]vil|t[eé]l[eé]phone|\bhandy|手机|电话|致电|拨打|热线|联系方式|微信)"
    r"[^0-9\n]{0,20}$"
)
_NO_PHONE = re.compile(
    r"(?i)(?:isbn(?:-1[03])?|issn|doi|order|invoice|tracking|account|serial|reference|ref|ticket|case|part|model|sku|"
    r"policy|patent|passport|customer|student|employee|member|licen[cs]e|vin|id|订单|编号|单号|账号|身份证)"
    r"[^0-9A-Za-z\n]{0,4}(?:numbers?|no|nr|num|code|id|号码?)?[^0-9A-Za-z\n]{0,6}$"
)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


def phones(text: str) -> Iterator[Span]:
    """Yield where telephone numbers stand: +49 30 901820, (415) 555-2671, 01 23 45 67 89, 138 0013 8000.

    Digits without such a form count only after a word like "phone"; none do after one like "order" or "ISBN".
    """
    for match in _beginning_in_runs(text):
        form = match.lastgroup or ""
        before = text[max(0, match.start() - 40) : match.start()]
        if not _NO_PHONE.search(before) and _dials(form, match[0], before, text):
            closes_nothing = match[0].endswith(")") and "(" not in match[0]
            yield match.start(), match.end() - closes_nothing


def _beginning_in_runs(text: str) -> Iterator[re.Match[str]]:
    """Yield the matches of `_PHONE`, tried only where digits stand together: a tenth of the cost of a plain search."""
    end = 0
    for run in _RUN.finditer(text):
        for start in range(run.start(), run.end() - 5):
            if start >= end and text[start] in _FIRST and (match := _PHONE.match(text, start)):
                end = match.end()
                yield match


_RUN = re.compile(r"[0-9+(][0-9()+ .\-/\u00a0\u2010-\u2015]*")
_FIRST = frozenset("0123456789+(")


def _dials(form: str, number: str, before: str, text: str) -> bool:
    """Return whether digits of this form, here, are a telephone number."""
    digits = re.sub(r"[^0-9]", "", number)
    if set(digits) <= {"0", "1"} or digits.endswith("00000"):
        return False
    named = _NAMED.search(before) is not None
    if form == "bare":
        return named and not re.fullmatch(r"[0-9]{4}[-/.][0-9]{2}[-/.][0-9]{2}|[0-9]+\.[0-9]+", number)
    if form == "world":
        return named or len(digits) >= 8
    if form == "french":
        pairs = [int(digits[place : place + 2]) for place in range(0, 10, 2)]
        steps = {after - pair for pair, after in itertools.pairwise(pairs)}
        return named or len(steps) > 1 or abs(steps.pop()) > 10
    if form == "chinese":
        return named or len(number) > 11 or _CHINESE.search(text) is not None
    return True
