"""The texts of special tokens, and how to break them inside untrusted strings.

The one idea: a special token is read from a text only where its characters stand in a
row. One marker character after the first of them is enough to prevent it, and since the
marker occurs nowhere else it can be taken out again after the text has been cut up.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection


class SpecialTexts:
    """Finds and interrupts the texts of special tokens. Immutable, any thread may call.

    Args:
        texts: The special tokens' texts.
        normalize: The tokenizer's normalizer, if special tokens are looked for in
            normalized text; None if they are looked for in the text as it is.
    """

    def __init__(self, texts: Collection[str], normalize: Callable[[str], str] | None) -> None:
        breakable = [text for text in texts if len(text) > 1]
        self._anywhere = re.compile(_any_of(breakable))
        self._each_start = re.compile(f"(?={_any_of(breakable)})")
        self._prefixes = {text[:end] for text in breakable for end in range(1, len(text))}
        self._suffixes = {text[start:] for text in breakable for start in range(1, len(text))}
        self._max_edge = max(map(len, breakable), default=1) - 1
        self._first_chars = frozenset(text[0] for text in breakable)
        self._last_chars = frozenset(text[-1] for text in breakable)
        self._normalize = normalize
        if normalize is not None:
            written = filter(None, map(normalize, breakable))
            self._normalized = re.compile(_any_of([*breakable, *written]))

    def are_near(self, text: str) -> bool:
        """Whether `text` holds a special token's text, or could complete one at an edge."""
        return bool(
            self._anywhere.search(text)
            or self._edge_cuts(text)
            or self._is_written_by_normalizer(text)
        )

    def interrupt(self, text: str, marker: str) -> str:
        """Put markers into `text` so that no special token can be read from it.

        That holds as well where the text meets a neighbour: an edge that could be one
        half of a special token gets a marker too.

        Args:
            text: Untrusted text.
            marker: One character that occurs neither in `text` nor in a special token.

        Returns:
            The text with markers; taking them out gives `text` back.
        """
        cuts = {match.start() + 1 for match in self._each_start.finditer(text)}
        marked = _insert(text, cuts | self._edge_cuts(text), marker)
        if self._is_written_by_normalizer(marked):
            # The normalizer made a special token out of other characters (as NFKC does
            # with full-width ones). Where they stood is not known: break every pair.
            return _insert(text, _cuts_between_words(text), marker)
        return marked

    def _is_written_by_normalizer(self, text: str) -> bool:
        normalize = self._normalize
        return normalize is not None and bool(self._normalized.search(normalize(text)))

    def _edge_cuts(self, text: str) -> set[int]:
        lengths = range(1, min(self._max_edge, len(text)) + 1)
        cuts: set[int] = set()
        # Hardly ever so, and cheaper to ask than to look for each prefix and suffix.
        if not self._first_chars.isdisjoint(text[-self._max_edge :]):
            cuts |= {len(text) - n + 1 for n in lengths if text[-n:] in self._prefixes}
        if not self._last_chars.isdisjoint(text[: self._max_edge]):
            cuts |= {n - 1 for n in lengths if text[:n] in self._suffixes}
        return cuts


def _any_of(texts: list[str]) -> str:
    """A pattern that matches each of `texts` and nothing else."""
    return "|".join(map(re.escape, texts)) or r"(?!)"


def _cuts_between_words(text: str) -> set[int]:
    """Every place between two characters that are not white space."""
    pairs = enumerate(itertools.pairwise(text), start=1)
    return {cut for cut, (a, b) in pairs if not (a.isspace() or b.isspace())}


def _insert(text: str, cuts: set[int], marker: str) -> str:
    if not cuts:
        return text
    positions = sorted(cuts)
    starts, ends = [0, *positions], [*positions, len(text)]
    return marker.join(text[start:end] for start, end in zip(starts, ends, strict=True))
