"""How people ask: wordings of each kind of question on a scene."""

from __future__ import annotations

NAMING = (
    "What is this?",
    "What is in the picture?",
    "What's in this image?",
    "What do you see?",
    "What is shown here?",
    "what is this",
    "whats in the picture",
    "What does the image show?",
    "Name what you see.",
    "What can be seen here?",
    "Identify what is in the image.",
    "What do you see in this picture?",
    "Tell me what this is.",
    "What are we looking at?",
    "Can you tell me what is in this image?",
    "what do you see here?",
)
ONE_WORD = (
    "What is this? Answer with the name alone.",
    "Name the object in one or two words.",
    "Name the object.",
    "What object is shown? Just the name.",
    "In a word, what is this?",
)
FULL_SENTENCE = ("Answer in a full sentence.", "Use a full sentence.", "Reply with a sentence.")
EXISTENCE = (
    "Is there {} in the picture?",
    "Is there {} in this image?",
    "Do you see {}?",
    "Can you see {} here?",
    "Does the picture show {}?",
    "Is {} shown?",
    "is there {}?",
    "Does this image contain {}?",
    "Is there {} here? Answer yes or no.",
)
COUNTING = (
    "How many {} are there?",
    "How many {} are in the picture?",
    "How many {} do you see?",
    "Count the {}.",
    "how many {}",
    "What is the number of {} in the image?",
    "How many {} can you count?",
)
COLOUR = (
    "What color {0} the {1}?",
    "What colour {0} the {1}?",
    "which color {0} the {1}",
    "What is the color of the {1}?",
    "Tell me the color of the {1}.",
)
BACKGROUND_COLOUR = (
    "What color is the background?",
    "What is the color of the background?",
    "What colour is the background?",
    "Which color does the background have?",
    "Describe the background's color in one word.",
)
WHERE = {
    "what": (
        "What is at the {}?",
        "What do you see at the {} of the picture?",
        "Which object is at the {}?",
        "What is shown at the {}?",
        "Name the object at the {}.",
    ),
    "where": (
        "Where {1} the {0}?",
        "Where in the picture {1} the {0}?",
        "In which part of the image {1} the {0}?",
        "What is the position of the {0}?",
        "where {1} the {0} in this image",
    ),
    "relative": (
        "Where {2} the {0} relative to the {1}?",
        "Where {2} the {0} compared to the {1}?",
        "On which side of the {1} {2} the {0}?",
        "Seen from the {1}, where {2} the {0}?",
        "Where {2} the {0} with respect to the {1}?",
    ),
}
RELATION = {
    "left": (
        "{2} the {0} to the left of the {1}?",
        "{2} the {0} left of the {1}?",
        "{2} the {0} on the left side of the {1}?",
    ),
    "right": (
        "{2} the {0} to the right of the {1}?",
        "{2} the {0} right of the {1}?",
        "{2} the {0} on the right side of the {1}?",
    ),
    "above": ("{2} the {0} above the {1}?", "{2} the {0} higher than the {1}?", "{2} the {0} over the {1}?"),
    "below": ("{2} the {0} below the {1}?", "{2} the {0} lower than the {1}?", "{2} the {0} under the {1}?"),
}
DESCRIBING = (
    "Describe the picture.",
    "Describe this image in one sentence.",
    "Give a short caption.",
    "Write a caption for this image.",
    "What does the picture show? Answer in one sentence.",
    "Briefly describe what you see.",
)
LISTING = (
    "List the objects.",
    "List everything you see.",
    "Which objects are in the picture?",
    "Name all the objects.",
    "What things are there?",
)
DETAIL = (
    "Describe the picture in detail.",
    "Describe everything in the image.",
    "Give a detailed description of this picture.",
    "Tell me all about this image.",
    "Describe the scene in a few sentences.",
)
UNANSWERABLE = (
    "Who made this picture?",
    "What time is it?",
    "How much does the {} cost?",
    "Who owns the {}?",
    "What is the name of the person who drew this?",
    "What happened before this?",
    "How heavy is the {}?",
    "Where was the {} made?",
    "What sound does this picture make?",
    "How old is the {}?",
)
UNKNOWN = (
    "I can't tell from this image.",
    "The picture doesn't show that.",
    "I can't tell that from the picture.",
    "That can't be seen in this image.",
)
