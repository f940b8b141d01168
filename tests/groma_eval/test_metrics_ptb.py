"""The tokenizer against what Stanford's PTBTokenizer 3.4.1 gives, punctuation removed."""

from __future__ import annotations

import json

import pytest
from caption_data import FAKECAP, TEST_A, texts, tokenised
from hypothesis import given, settings
from hypothesis import strategies as st

from groma_eval.metrics.ptb import ptb_tokens, tokenise_captions
from groma_eval.metrics.ptb_shape import shape

# What the reference tool gives for these texts, each alone among others.
CASES = [
    ("A man's dog doesn't bark, and it's NOT well-trained.", "a man 's dog does n't bark and it 's not well-trained"),
    ("The teddy bears' picnic wasn't far; they'd've come.", "the teddy bears picnic was n't far they 'd 've come"),
    ("We cannot see it, I'm gonna look -- 'tis dark.", "we can not see it i 'm gon na look 't is dark"),
    ("Y'all can't say rock 'n' roll in the '80s!", "y' all ca n't say rock 'n' roll in the '80s"),
    ('A sign (small) says "STOP"...', "a sign -lrb- small -rrb- says stop"),
    ("He said “it’s mine” – not ‘yours’…", "he said it 's mine not yours"),
    ("The clock reads 5:55pm on Morgan Rd.", "the clock reads 5:55 pm on morgan rd."),
    ("About 1 1/2 to 2-1/2 cups, ½ or 3,000.50 of -5 %", "about 1\xa01/2 to 2-1/2 cups 1/2 or 3,000.50 of -5 %"),
    ("Call (555) 123-4567 or 555-1234 now.", "call -lrb-555-rrb-\xa0123-4567 or 555-1234 now"),
    ("$5, US$20, £3, €4 and 5¢ on #25", "$ 5 us$ 20 # 3 $ 4 and 5 cents on # 25"),
    ("Mr. Smith Jr. of the U.S. met Dr. No etc. at 9 a.m.", "mr. smith jr. of the u.s. met dr. no etc. at 9 a.m."),
    ("A plate in Ill. is ill. A mass of Mass.", "a plate in ill. is ill a mass of mass."),
    ("See fig. 3 and no. 7, no.", "see fig. 3 and no. 7 no"),
    ("Plan B. The dog has plan B. dogs", "plan b the dog has plan b. dogs"),
    ("e.g., vitamin C., i.e. the word.; a co., ltd", "e.g. vitamin c. i.e. the word. a co. ltd"),
    ("mail me@site.com, see http://a.org/b?c=d or www.x.net.", "mail me@site.com, see http://a.org/b?c=d or www.x.net"),
    ("photo.jpg and 01.png, not x-1.jpg", "photo.jpg and 01.png not x-1 jpg"),
    ("@user #tag #1 AT&T R&B a&b C++ and/or w/ 24/7", "@user #tag # 1 at&t r&b a & b c++ and/or w / 24/7"),
    ("<b>bold</b> a<b <3 :) :-( ^_^ &amp; &lt;x&gt; &nbsp;", "<b> bold </b> a < b < 3 :-rrb- :--lrb- ^_^ & < x >"),
    (
        "[x] {y} a*b a_b ** = == ~ 50% ?! !! --- -----",
        "-lsb- x -rsb- -lcb- y -rcb- a * b a_b ** = = = ~ 50 % ?! !! -----",
    ),
    ("café naïve 中文字 H₂O x² 20°C ×2 ★ 😀 a\u200bb", "café naïve 中文字 h ₂ o x ² 20 ° c × 2 ★ a b"),
    ("T-shirt mid-1990s O'Neil's d'or c'mon o'clock li'l", "t-shirt mid-1990s o'neil 's d'or c'mon o'clock li'l"),
    ("colour, grey, theatre; organise the centre", "colour grey theatre organise the centre"),
    ("two\ttabs,  two spaces and a no-break\xa0space", "two tabs two spaces and a no-break space"),
    ("cont'd. don'ts N'T 'em 'twas somethin' ol' ma'am", "cont'd. do n'ts n't 'em 't was somethin' ol' ma'am"),
    ("state-of-the-art x-y.z a.b.c 1.2.3 5. x.", "state-of-the-art x-y z a.b.c 1.2.3 5 x."),
    ("end.Start what?ever a...b ...c d.... e", "end.start what?ever a. b c d. e"),
    ("I. Newton and J.R.R. Tolkien, Ph.D.", "i. newton and j.r.r. tolkien ph.d."),
    ("", ""),
    (". , ! ?", ""),
]


@pytest.mark.parametrize(("text", "tokens"), CASES)
def test_tokens(text, tokens):
    assert " ".join(tokenise_captions([text, "zz"])[0]) == tokens


@pytest.mark.parametrize(
    ("lines", "tokens"),
    [
        # A letter's full stop goes where a sentence starts behind it, "no." keeps its before a number, ...
        (["letter B.", "The dog", "etc.", "No.", "5 dogs"], ["letter b", "the dog", "etc.", "no.", "5 dogs"]),
        (["B.", "a dog", "no.", ""], ["b.", "a dog", "no", ""]),
        # ... and at the very end of all lines nothing follows that a face or a year could be told by.
        (["x :)", "y :)"], ["x :-rrb-", "y -rrb-"]),
        (["in '90", "in '90"], ["in '90", "in 90"]),
    ],
)
def test_the_next_line_is_seen(lines, tokens):
    assert [" ".join(line) for line in tokenise_captions(lines)] == tokens


@pytest.mark.parametrize("name", [FAKECAP, TEST_A])
def test_captions_as_the_reference_tokenises_them(shared, name):
    said, references = texts(shared, name)
    said_tokens, reference_tokens = tokenised(shared, name)
    found = tokenise_captions([said[key] for key in said_tokens])
    assert [" ".join(tokens) for tokens in found] == list(said_tokens.values())
    found = tokenise_captions([text for key in reference_tokens for text in references[key]])
    assert [" ".join(t) for t in found] == [text for others in reference_tokens.values() for text in others]


def test_the_other_tokenised_pair(shared):
    folder = shared / "data" / "captions"
    said, references = texts(shared, FAKECAP)
    for found, name in ((references, "references"), ({k: [v] for k, v in said.items()}, "results")):
        wanted = json.loads((folder / f"en_captions_val2014_{name}_after_tokenization.json").read_text())
        assert wanted
        for key, lines in wanted.items():
            # That pair lost the marks too that stand in a word's place.
            tokens = [" ".join(line) for line in tokenise_captions(found[key])]
            assert tokens == lines


def test_no_text_and_line_breaks():
    assert tokenise_captions([]) == []
    assert tokenise_captions(["", "a", ""]) == [[], ["a"], []]
    assert ptb_tokens("a\ndog\r\nbarks\u2028 loud") == ["a", "dog", "barks", "loud"]


anything = st.text(max_size=40) | st.text(alphabet="aBs t'n.,-/&;<>()12$#@:é’“…\u0301\n", max_size=40)


@settings(max_examples=300, deadline=None)
@given(st.lists(anything, max_size=4))
def test_every_text_has_its_line_of_clean_tokens(lines):
    found = tokenise_captions(lines)
    assert len(found) == len(lines)
    for token in (token for line in found for token in line):
        assert token
        assert not set(token) & set(" \n\t")
        assert token == token.lower()
        assert token not in {".", ",", "-", "--", "'", "''", "`", "``", "...", ";", ":", "?", "!"}


words = st.text(alphabet="abcdefghijklmnopqrstuvwxyzé", min_size=5, max_size=9).filter(
    lambda w: w not in NO_PLAIN_WORDS
)
NO_PLAIN_WORDS = {"gonna", "gotta", "lemme", "gimme", "wanna", "cannot"}


@given(st.lists(words, max_size=6))
def test_plain_words_stay_as_they_are(line):
    assert ptb_tokens(" ".join(line)) == line
    assert ptb_tokens(", ".join(line).upper()) == line


@given(st.text())
def test_a_shape_is_as_long_as_its_text(text):
    assert len(shape(text)) == len(text)
    assert shape(shape(text)) == shape(text)
