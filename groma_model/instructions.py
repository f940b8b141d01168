"""The instructions the released model was trained with, by the data set that used them; ``{}`` is what is asked about.

They are an interface of the released weights, so their wording is kept to the letter. Training draws among a list;
protocols that must be repeatable take its first entry. ``{}`` stands for ``<p>an expression</p>`` where a region is to
be found and for ``<roi><refer_box></roi><refer_feat>`` where one is to be described; a whole picture's description
(``flickr``) is asked for behind ``[grounding]``, without a space.
"""

from __future__ import annotations

_FIND_ONE = (
    "Locate {} in the image.",
    "Can you spot {} in the photograph?",
    "Identify where {} is located in the picture.",
    "Please detect {} in the picture.",
    "Which region matches the description {}?",
    "Please identify the object that corresponds to {}.",
)

_FIND_ALL = (
    "Locate all {} in this image.",
    "Identify all instances of {} in the photo.",
    "Find all instances of {} in the image.",
    "Point out all the {} visible in this picture.",
    "Detect and list each {} that appears in this photo.",
    "What is the position of each {} in the image?",
)

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "refcoco_rec": _FIND_ONE,
    "grit": _FIND_ONE,
    "coco": _FIND_ALL,
    "lvis": _FIND_ALL,
    "refcoco_cap": (
        "Can you provide me with a detailed description of {}?",
        "Please describe {} in details.",
        "I'm curious about {} in the photo. Can you describe it in detail?",
        "Please give a comprehensive description of the object {}.",
        "What does the object {} in the picture look like? Could you give me a detailed description?",
    ),
    "visual_genome": (
        "What is {}?",
        "Please briefly describe {}.",
        "Provide a short description for {}.",
        "Please give a concise description of region {}.",
    ),
    "flickr": (
        "Give me a concise description of the image.",
        "Please briefly summarize the content of this image.",
        "What does this picture show? Please summarize briefly.",
        "Can you give me a quick overview of what's depicted in this image?",
        "Could you describe the key elements in this photograph?",
        "Offer a brief explanation of what this image represents.",
        "Sum up the contents of this picture in one or two sentences.",
    ),
}
