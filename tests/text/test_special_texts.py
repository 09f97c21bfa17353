"""Markers break every special token, wherever its halves come from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_serve.text.special_texts import SpecialTexts

MARKER = "#"
TEXTS = st.text("ab<>|", max_size=12)
SPECIALS = st.lists(st.text("ab<>|", min_size=2, max_size=5), min_size=1, max_size=4)


@given(specials=SPECIALS, parts=st.lists(TEXTS, min_size=1, max_size=2))
def test_nothing_special_is_left_in_one_string_or_where_two_meet(
    specials: list[str], parts: list[str]
) -> None:
    special_texts = SpecialTexts(specials, None)
    whole = "".join(special_texts.interrupt(part, MARKER) for part in parts)
    assert not any(special in whole for special in specials)


@given(special=st.text("ab<>|", min_size=2, max_size=5), text=TEXTS, data=st.data())
def test_a_special_token_cannot_be_completed_by_trusted_text(
    special: str, text: str, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(special) - 1))
    special_texts = SpecialTexts([special], None)
    for untrusted, before, after in (
        (text + special[:cut], "", special[cut:]),
        (special[cut:] + text, special[:cut], ""),
    ):
        marked = special_texts.interrupt(untrusted, MARKER)
        ends_at = len(before) + len(marked)
        whole = before + marked + after
        starts = [i for i in range(len(whole)) if whole.startswith(special, i)]
        assert not any(i < ends_at and i + len(special) > len(before) for i in starts)


@given(specials=SPECIALS, text=TEXTS)
def test_taking_the_markers_out_gives_the_text_back(specials: list[str], text: str) -> None:
    assert SpecialTexts(specials, None).interrupt(text, MARKER).replace(MARKER, "") == text


@given(specials=SPECIALS, text=TEXTS)
def test_text_that_is_near_nothing_special_gets_no_marker(specials: list[str], text: str) -> None:
    special_texts = SpecialTexts(specials, None)
    is_marked = special_texts.interrupt(text, MARKER) != text
    assert special_texts.are_near(text) == is_marked


def test_a_marker_never_stands_outside_white_space() -> None:
    special_texts = SpecialTexts(["<|im_end|>"], None)
    marked = special_texts.interrupt("  <|im_end|> and <|im_\n", MARKER)
    assert marked == "  <#|im_end|> and <|im_\n"


def test_special_tokens_that_a_normalizer_would_write_are_broken_too() -> None:
    special_texts = SpecialTexts(["<s>"], str.lower)
    assert special_texts.are_near("x <S>")
    marked = special_texts.interrupt("x <S>", MARKER)
    assert "<s>" not in marked.lower()
    assert marked.replace(MARKER, "") == "x <S>"


@pytest.mark.parametrize("texts", [[], ["\n"]])
def test_without_breakable_texts_nothing_is_special(texts: list[str]) -> None:
    special_texts = SpecialTexts(texts, None)
    assert not special_texts.are_near("a\nb")
    assert special_texts.interrupt("a\nb", MARKER) == "a\nb"
