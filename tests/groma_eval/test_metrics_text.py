"""Short answers, grounded phrases and named attributes: rules by example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groma_eval.metrics.phrases import attribute_scores, content_words, phrase_scores
from groma_eval.metrics.vqa import facts_score, match_answer, normalise_answer

VOCABULARY = {
    "colour": ["red", "blue", "dark blue"],
    "shape": ["circle", "square"],
    "location": ["top", "top left", "left", "centre"],
}
A, B = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Red, circle!", "red circle"),
        ("<p>the dog</p><roi><r3></roi> barks.", "dog barks"),
        ("three", "3"),
        ("1,200.5 m", "1200.5 m"),
        ("It isn't", "it isnt"),
        ("  ", ""),
    ],
)
def test_normalised_answers(text, normal):
    assert normalise_answer(text) == normal


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("Red.", "red", True),
        ("The circle is red.", "red", True),
        ("It is dark blue", "dark blue", True),
        ("It is dark blue", "blue", True),
        ("It is red and blue", "red", False),
        ("red or blue", "red", False),
        ("It is not red", "red", False),
        ("It is not a red", "red", False),
        ("reddish", "red", False),
        ("Yes, there is one.", "yes", True),
        ("No, not yes", "yes", False),
        ("I think yes", "yes", False),
        ("yes", "no", False),
        ("There are three.", "3", True),
        ("3 circles", "three", True),
        ("There are 3 or 4", "4", False),
        ("13", "3", False),
        ("", "red", False),
        ("red", "", False),
    ],
)
def test_short_answers(text, answer, right):
    assert match_answer(text, answer) is right


def test_other_accepted_answers():
    assert match_answer("crimson", "red", accept=["crimson", "scarlet"])
    assert not match_answer("blue", "red", accept=["crimson"])


def test_facts_named():
    facts = {"colour": "red", "shape": "circle", "where": "top left"}
    assert facts_score("A red circle at the top.", facts) == pytest.approx(2 / 3)
    assert facts_score("A red circle at the top left.", facts) == 1.0
    assert facts_score("two discs", [["circles", "discs"], "2"]) == 1.0
    assert facts_score("reds", ["red"]) == 0.0
    assert facts_score("anything", []) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("the two red circles", "a red circle", True),
        ("Circle, red", "red circle", True),
        ("boxes", "a box", True),
        ("three berries", "berry", True),
        ("glass", "glas", False),
        ("a red circle", "a circle", False),
        ("blue circle", "red circle", False),
    ],
)
def test_content_words(one, other, same):
    assert (content_words(one) == content_words(other)) is same


def test_a_phrase_counts_with_its_own_box_once():
    gt = [{"phrase": "a red circle", "boxes": [A]}, {"phrase": "a blue square", "boxes": [B]}]
    assert phrase_scores(gt, gt) == {"tp": 2, "n_pred": 2, "n_gt": 2}
    swapped = [{"phrase": "a red circle", "boxes": [B]}, {"phrase": "a blue square", "boxes": [A]}]
    assert phrase_scores(swapped, gt)["tp"] == 0
    twice = [{"phrase": "red circle", "boxes": [A, A]}]
    assert phrase_scores(twice, gt) == {"tp": 1, "n_pred": 2, "n_gt": 2}
    assert phrase_scores([], gt) == {"tp": 0, "n_pred": 0, "n_gt": 2}
    assert phrase_scores(gt, [])["tp"] == 0


def test_plural_phrases_pair_with_each_of_their_boxes():
    gt = [{"phrase": "two red circles", "boxes": [A, B]}]
    pred = [{"phrase": "a red circle", "boxes": [B]}, {"phrase": "the red circle", "boxes": [A]}]
    assert phrase_scores(pred, gt)["tp"] == 2
    half = [{"phrase": "red circle", "boxes": [(0.0, 0.0, 0.25, 0.5)]}]
    assert phrase_scores(half, gt)["tp"] == 1  # IoU exactly 0.5
    assert phrase_scores(half, gt, iou=0.55)["tp"] == 0


def right(text, **attributes):
    return attribute_scores(text, attributes, VOCABULARY)


def test_attributes_named_right():
    assert right("A red circle at the top left.", colour="red", shape="circle", location="top left") == {
        "colour": True,
        "shape": True,
        "location": True,
    }
    assert right("a circle", colour="red") == {"colour": False}


def test_longer_values_win_over_those_inside_them():
    assert right("at the top left", location="top") == {"location": False}
    assert right("at the top-left", location="top left") == {"location": True}
    assert right("at the top", location="top left") == {"location": False}
    assert right("a dark blue circle", colour="blue") == {"colour": False}
    assert right("a dark blue circle", colour="dark blue") == {"colour": True}


def test_two_values_of_one_attribute_name_neither():
    assert right("a red and blue circle", colour="red") == {"colour": False}
    assert right("a red circle, red indeed", colour="red") == {"colour": True}


def test_whole_words_only_but_plurals_pass():
    assert right("the circles are reddish", colour="red", shape="circle") == {"colour": False, "shape": True}
    assert right("a mauve thing", colour="mauve") == {"colour": True}  # a value outside the vocabulary


@given(st.sampled_from(VOCABULARY["location"]), st.sampled_from(VOCABULARY["location"]))
def test_a_location_is_right_exactly_when_it_is_the_one_named(said, true):
    assert right(f"it lies at the {said} of the picture", location=true)["location"] is (said == true)
