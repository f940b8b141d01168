"""What a vision-language model is asked: the rules, two written examples, and a picture with its context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groma_model.instruct.regions import Region

Message = dict[str, Any]

_MOST_CAPTIONS = 5
_MOST_QUESTIONS = 8

SYSTEM = """You write training conversations for an assistant that looks at pictures and points at what it speaks of.

You get a picture on which some regions are outlined and numbered, and notes by people who saw it: a few descriptions \
of each numbered region, sometimes captions of the whole picture, and sometimes questions with answers. Write a \
conversation between a user, who asks about the picture, and the assistant, who answers.

Form:
- Every turn is a line that begins with "User:" or "Assistant:". They take turns; the user begins, the assistant ends. \
Write 2 to 5 questions with their answers, and nothing before or after.
- In the assistant's turns, mark each phrase for a numbered region as [phrase](number), such as [a brown dog](3), or \
with several numbers where the phrase means several regions: [two cups](1, 4). The phrase reads naturally in its \
sentence. Use only numbers that are on the picture, and mark a phrase only where it means just these regions.
- The user's turns have no marks: the user sees the plain picture and knows of no outlines and numbers.

Content:
- Never speak of numbers, markers, boxes, regions, captions or notes: the conversation is about the picture itself.
- Ask different things: what there is and where, what goes on, how things relate, what may have happened before or \
come next, what one could do. At least one answer should be long and take reasoning.
- Say only what the picture shows or what follows from it. Where notes and picture disagree, trust the picture.
- Plain sentences, no lists, no headings, no angle or square brackets but for the marks."""

#: Contexts and replies shown as examples; their pictures are left out.
EXAMPLES: tuple[tuple[str, str], ...] = (
    (
        """Regions:
1: a woman in a yellow raincoat; woman holding a leash
2: small white dog; wet dog
3: black umbrella
4: puddle on the path
Captions:
- A woman walks her dog in the rain.
Questions and answers:
- What is the weather like? Rainy.""",
        """User: What is happening here?
Assistant: [A woman in a yellow raincoat](1) is taking [a small white dog](2) for a walk in the rain. She holds \
[a black umbrella](3) over her head.
User: Is the dog staying dry?
Assistant: No, [its coat](2) looks soaked. [The umbrella](3) only covers [the woman](1), and the dog walks a step \
ahead of her on its leash.
User: What should they watch out for?
Assistant: There is [a puddle](4) right in front of them. [The dog](2) is small, so walking through it would make \
its belly wet and cold, and [the woman](1) could lead it around on the dry side of the path.""",
    ),
    (
        """Regions:
1: bowl of oranges; fruit in a blue bowl
2: wooden table
3: man's hand with a knife
4: chair by the window
5: chair next to the table
6: glass of water""",
        """User: Where is the fruit?
Assistant: The oranges are in [a blue bowl](1) that stands on [a wooden table](2).
User: How many seats are there, and are they taken?
Assistant: I can see [two chairs](4, 5), and nobody sits on either of them.
User: What do you think the man is about to do?
Assistant: [His hand](3) holds a knife close to [the bowl](1), so he will probably cut an orange. Nothing has been \
peeled yet and the juice squeezer is nowhere to be seen, which speaks for slices to eat rather than juice; if he gets \
thirsty there is [a glass of water](6) within reach.""",
    ),
)


def context_of(regions: Sequence[Region], captions: Sequence[str], questions: Sequence[tuple[str, str]]) -> str:
    """The notes on a picture: region i has number i + 1. At most five captions and eight questions are given."""
    lines = ["Regions:"]
    lines += [f"{number}: {'; '.join(region.descriptions)}" for number, region in enumerate(regions, 1)]
    if captions:
        lines += ["Captions:", *(f"- {caption}" for caption in captions[:_MOST_CAPTIONS])]
    if questions:
        lines += ["Questions and answers:", *(f"- {asked} {answer}" for asked, answer in questions[:_MOST_QUESTIONS])]
    return "\n".join(lines)


def text_messages(context: str) -> list[Message]:
    """All messages for a picture with ``context``, but for the picture; the last is the one it belongs to."""
    messages: list[Message] = [{"role": "system", "content": SYSTEM}]
    for given, reply in EXAMPLES:
        messages += [{"role": "user", "content": f"(The example's picture is left out.)\n{given}"}]
        messages += [{"role": "assistant", "content": reply}]
    return [*messages, {"role": "user", "content": context}]


def with_picture(messages: Sequence[Message], url: str) -> list[Message]:
    """``messages`` with the picture at ``url`` (a ``data:`` address) before the last one's text."""
    last = messages[-1]
    parts = [
        {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
        {"type": "text", "text": last["content"]},
    ]
    return [*messages[:-1], {"role": last["role"], "content": parts}]
