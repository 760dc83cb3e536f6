"""Prompt formats as data: how each family of language models lays out a conversation.

Named once, in `FORMATS`, for training and answering alike, and copied into every bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from dclocal.errors import BundleError


@dataclass(frozen=True)
class PromptFormat:
    """How one family of models lays out a conversation.

    `answer_end` closes an answer: it is trained, and generation stops there.  `answer_lead` stands before an
    answer's text; the model writes it.  `image_suffix` follows each image's tokens; images stand before the
    text of their message.  `specials` are the special tokens among these texts: each is one token, and all text
    between two of them is tokenized in one piece, as the models were trained.
    """

    name: str
    bos: str
    system_prefix: str
    system_suffix: str
    user_prefix: str
    user_suffix: str
    answer_prefix: str
    answer_end: str
    answer_suffix: str
    image_suffix: str
    specials: tuple[str, ...]
    answer_lead: str = ""
    default_system: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The format as plain JSON data."""
        return {**asdict(self), "specials": list(self.specials)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PromptFormat:
        """The format from a bundle's JSON; raises BundleError naming a missing or non-text key."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = data.get(field.name, "" if field.name in ("answer_lead", "default_system") else None)
            if field.name == "specials":
                good = isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value)
                value = tuple(value) if good else None
            elif not isinstance(value, str):
                value = None
            if value is None:
                raise BundleError(
                    f"the bundle's prompt format has no text for {field.name!r}", "pull or export it again"
                )
            values[field.name] = value
        return cls(**values)


_ASSISTANT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_VISUAL = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_CHATML = PromptFormat(
    name="chatml",
    bos="",
    system_prefix="<|im_start|>system\n",
    system_suffix="<|im_end|>\n",
    user_prefix="<|im_start|>user\n",
    user_suffix="<|im_end|>\n",
    answer_prefix="<|im_start|>assistant\n",
    answer_end="<|im_end|>",
    answer_suffix="\n",
    image_suffix="\n",
    specials=("<|im_start|>", "<|im_end|>"),
)
_VICUNA = PromptFormat(
    name="vicuna_v1",
    bos="<s>",
    system_prefix="",
    system_suffix=" ",
    user_prefix="USER: ",
    user_suffix=" ",
    answer_prefix="ASSISTANT:",
    answer_lead=" ",
    answer_end="</s>",
    answer_suffix="",
    image_suffix="\n",
    specials=("<s>", "</s>"),
    default_system=_ASSISTANT,
)
_LLAMA3 = PromptFormat(
    name="llama3",
    bos="<|begin_of_text|>",
    system_prefix="<|start_header_id|>system<|end_header_id|>\n\n",
    system_suffix="<|eot_id|>",
    user_prefix="<|start_header_id|>user<|end_header_id|>\n\n",
    user_suffix="<|eot_id|>",
    answer_prefix="<|start_header_id|>assistant<|end_header_id|>\n\n",
    answer_end="<|eot_id|>",
    answer_suffix="",
    image_suffix="\n",
    specials=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    default_system=_VISUAL,
)
_PLAIN = PromptFormat(
    name="plain",
    bos="",
    system_prefix="",
    system_suffix="",
    user_prefix="",
    user_suffix="",
    answer_prefix="",
    answer_end="\n",
    answer_suffix="",
    image_suffix="",
    specials=(),
)
_ALL = (
    _CHATML,
    # Hermes-2-Yi-34B: no line break after <|im_end|>.
    replace(
        _CHATML,
        name="chatml_direct",
        system_suffix="<|im_end|>",
        user_suffix="<|im_end|>",
        answer_suffix="",
        default_system="Answer the questions.",
    ),
    replace(_CHATML, name="qwen2", default_system="You are a helpful assistant."),
    _VICUNA,
    replace(_VICUNA, name="phi", bos="", answer_end="<|endoftext|>", specials=("<|endoftext|>",)),
    _LLAMA3,
    # The released Llama-3 checkpoints were trained with this header before their answers.
    replace(_LLAMA3, name="llama3_released", answer_prefix="<|start_header_id|>system<|end_header_id|>\n\n"),
    # Stage 1 of the paper: the image's tokens, then the caption and the line's end.
    _PLAIN,
    replace(_PLAIN, name="plain_vicuna", bos="<s>", specials=("<s>",)),
    replace(_PLAIN, name="plain_llama3", bos="<|begin_of_text|>", specials=("<|begin_of_text|>",)),
    replace(_PLAIN, name="plain_chatml", answer_end="<|im_end|>", specials=("<|im_end|>",)),
)
FORMATS: dict[str, PromptFormat] = {prompt_format.name: prompt_format for prompt_format in _ALL}
