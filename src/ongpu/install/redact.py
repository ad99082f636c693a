"""Secrets out of everything that is shown, logged or kept: URLs carry them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, urlsplit

_HIDDEN: Final = "****"
_USERINFO: Final = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/@'\"`<>]+(?:/[^\s@/'\"`<>]*)??@", re.IGNORECASE)
_QUERY: Final = re.compile(r"(?P<key>[?&;][\w.~%-]+=)[^\s&;#'\"`<>)\]]+")


class Redactor:
    """Removes what is secret in the URLs it was given, and whatever looks like credentials in any other URL."""

    def __init__(self, urls: Iterable[str]) -> None:
        words: set[str] = set()
        for url in urls:
            parts = urlsplit(url)
            for word in (parts.password, parts.username if parts.password is None else None):
                # A secret may be shown as given or decoded; shorter than four letters it would hide ordinary words.
                words |= {one for one in (word, unquote(word or "")) if one and len(one) >= 4}
        self._words = sorted(words, key=len, reverse=True)

    def text(self, text: str) -> str:
        """``text`` without secrets."""
        text = _USERINFO.sub(rf"\g<scheme>{_HIDDEN}@", text)
        text = _QUERY.sub(rf"\g<key>{_HIDDEN}", text)
        for word in self._words:
            text = text.replace(word, _HIDDEN)
        return text
