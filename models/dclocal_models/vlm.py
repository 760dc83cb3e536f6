"""The assembled model: vision backbone, dense connector, language model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dclocal.bundle import ImageSpec
from dclocal_models.connectors import Connector, ConnectorConfig
from dclocal_models.registry import BACKBONES, CONNECTORS, lookup
from dclocal_models.vision import VisionConfig

IGNORED_LABEL = -100
NEWLINE = -1
"""In a token order, the place of the learned embedding that ends a row of an AnyRes picture."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the architecture and the prompt.

    `prompt` is a name in `dclocal.formats.FORMATS`.  `fit`: how a picture is brought to the backbone's square:
    "pad" (with the mean colour), "stretch", or "anyres" (tiles by `pinpoints`, (width, height) in pixels each).
    """

    vision: VisionConfig
    connector: ConnectorConfig
    prompt: str = "chatml"
    fit: str = "pad"
    pinpoints: tuple[tuple[int, int], ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fit not in ("pad", "stretch", "anyres"):
            raise ValueError(f"fit is {self.fit!r}; expected pad, stretch or anyres")
        if (self.fit == "anyres") != bool(self.pinpoints):
            raise ValueError(
                f"fit {self.fit} with {len(self.pinpoints)} pinpoints; anyres needs some, no other takes any"
            )

    def to_json_string(self) -> str:
        """The config as JSON: transformers' loggers ask a model's config for it."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """The config from `config.json`; lists become tuples again.

        Every key must be there: a default that has changed since would make another model, which answers plausibly.
        """
        values = dict(data)
        vision, connector = dict(values.pop("vision")), dict(values.pop("connector"))
        for part, given in ((VisionConfig, vision), (ConnectorConfig, connector), (cls, data)):
            missing = [known.name for known in fields(part) if known.name not in given]
            if missing:
                raise ValueError(f"{part.__name__} lacks {', '.join(missing)}")
        for key in ("image_mean", "image_std"):
            vision[key] = tuple(vision[key])
        for key in ("token_grid", "layers"):
            if connector[key] is not None:
                connector[key] = tuple(connector[key])
        values["pinpoints"] = tuple((int(width), int(height)) for width, height in values["pinpoints"])
        return cls(VisionConfig(**vision), ConnectorConfig(**connector), **values)


class DenseConnectorModel(nn.Module):
    """Pixels and text to next-token logits.

    `image_newline` is AnyRes's learned embedding, `[n_embd]`, or None.
    """

    vision: Any
    connector: Connector
    llm: Any
    accepts_loss_kwargs = True  # the Trainer hands the whole batch's count of labels to `forward`

    def __init__(self, config: ModelConfig, llm: Any):
        super().__init__()
        self.config = config
        self.vision = lookup(BACKBONES, config.vision.backbone, "vision backbone")(config.vision)
        self.vision.requires_grad_(False).eval()
        n_embd = llm.config.hidden_size
        self.connector = lookup(CONNECTORS, config.connector.kind, "connector")(
            config.connector,
            depth=self.vision.depth,
            width=self.vision.width,
            grid=self.vision.grid,
            conv_channels=self.vision.conv_channels,
            n_embd=n_embd,
        )
        self.image_newline = nn.Parameter(torch.randn(n_embd) / n_embd**0.5) if config.fit == "anyres" else None
        self.llm = llm

    @classmethod
    def from_pretrained(cls, folder: Path, *, dtype: torch.dtype = torch.float32) -> tuple[DenseConnectorModel, Any]:
        """The model and tokenizer of a checkpoint folder; see `checkpoint.load_checkpoint`."""
        from dclocal_models.checkpoint import load_checkpoint

        return load_checkpoint(Path(folder), dtype=dtype)

    def save_pretrained(self, folder: Path, tokenizer: Any) -> None:
        """Write a checkpoint folder; see `checkpoint.save_checkpoint`."""
        from dclocal_models.checkpoint import save_checkpoint

        save_checkpoint(self, tokenizer, Path(folder))

    def train(self, mode: bool = True) -> DenseConnectorModel:
        super().train(mode)
        self.vision.eval()
        return self

    def vision_features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Integrated features `[n, dense_tokens, dense_width]` and the convolutional map or None.

        Gradients reach the backbone only where its parameters are to be trained.
        """
        tuned = any(parameter.requires_grad for parameter in self.vision.parameters())
        with torch.set_grad_enabled(tuned and torch.is_grad_enabled()):
            output = self.vision(pixels)
        return self.connector.integrate(output.hidden_states), output.conv_map

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Embeddings `[n, tokens, n_embd]` of normalised pixels `[n, 3, H, W]`."""
        return self.connector.project(*self.vision_features(pixels))

    def arrange(self, embeds: Tensor, token_order: Tensor | None) -> Tensor:
        """Visual tokens in the order in which the language model reads them, `[length, n_embd]`.

        `token_order` indexes the flattened `[n·tokens]`, NEWLINE standing for the learned embedding; None keeps
        all in order.
        """
        flat = embeds.flatten(0, 1)
        if token_order is None:
            return flat
        assert self.image_newline is not None
        return torch.cat([flat, self.image_newline.to(flat.dtype)[None]])[token_order]

    @property
    def base_llm(self) -> Any:
        """The causal language model itself, below LoRA's wrapper where there is one."""
        return self.llm.get_base_model() if hasattr(self.llm, "get_base_model") else self.llm

    def embed(self, input_ids: Tensor, image_mask: Tensor, image_embeds: Tensor | None) -> Tensor:
        """Token embeddings `[batch, length, n_embd]` with the images' put in where `image_mask` is true, in order."""
        embeds = self.base_llm.get_input_embeddings()(input_ids)
        if image_embeds is None:
            return embeds
        return embeds.masked_scatter(image_mask[..., None], image_embeds.to(embeds.dtype))

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        image_mask: Tensor,
        labels: Tensor | None = None,
        pixels: Tensor | None = None,
        dense: Tensor | None = None,
        conv_map: Tensor | None = None,
        token_order: Tensor | None = None,
        imprint_class: Tensor | None = None,
        imprint_strength: Tensor | None = None,
        label_weights: Tensor | None = None,
        from_base: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Mean cross-entropy over labelled positions (`loss`), or without labels all `logits`.

        `attention_mask` is boolean `[batch, 1, length, length]`.  The batch's pictures, in order, come as `pixels`
        or as what `vision_features` made of them; `imprint_class` and `imprint_strength` go to `ClassWords.imprint`.
        `label_weights` `[batch, length]` weighs labelled positions, where given.  Rows where `from_base` `[batch]` is
        above 0 learn what the language model says without its LoRA (knowledge distillation, Hinton et al. 2015): there
        the loss is the divergence from its probabilities, times that.
        With `num_items_in_batch`, the labels of the whole batch over all its parts, the loss is this part's sum over
        that count.  Logits are computed at labelled positions alone.
        """
        if pixels is not None:
            dense, conv_map = self.vision_features(pixels.to(next(self.vision.parameters()).dtype))
        photographed = None
        if imprint_class is not None and imprint_strength is not None:
            assert self.connector.class_words is not None and conv_map is not None
            conv_map = self.connector.class_words.imprint(conv_map, imprint_class, imprint_strength)
            photographed = (imprint_class >= 0).float()
        image_embeds = None
        if dense is not None:
            image_embeds = self.arrange(self.connector.project(dense, conv_map, photographed), token_order)
        embeds = self.embed(input_ids, image_mask, image_embeds)
        if dense is None and self.training:
            embeds = embeds + self._unused()
        if labels is None:
            hidden = self._hidden(embeds, position_ids, attention_mask)
            return {"logits": self.base_llm.get_output_embeddings()(hidden)}
        return {
            "loss": self.next_token_loss(
                embeds, position_ids, attention_mask, labels, label_weights, from_base, num_items_in_batch
            )
        }

    def next_token_loss(
        self,
        embeds: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
        from_base: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The loss of token embeddings; see `forward`."""
        answered = labels[:, 1:] != IGNORED_LABEL
        told = None
        if from_base is not None and from_base.any():
            told = self._base_logits(embeds, position_ids, attention_mask, answered, from_base > 0)
        hidden = self._hidden(embeds, position_ids, attention_mask)
        logits = self.base_llm.get_output_embeddings()(hidden[:, :-1][answered]).float()
        losses = nn.functional.cross_entropy(logits, labels[:, 1:][answered], reduction="none")
        if told is not None:
            assert from_base is not None
            weight = from_base[:, None].expand_as(answered)[answered]
            said = logits[weight > 0].log_softmax(-1)
            divergence = nn.functional.kl_div(said, told, reduction="none", log_target=True).sum(-1)
            losses = losses.masked_scatter(weight > 0, divergence * weight[weight > 0])
        total = (losses if label_weights is None else losses * label_weights[:, 1:][answered]).sum()
        return total / (answered.sum() if num_items_in_batch is None else num_items_in_batch)

    @torch.no_grad()
    def _base_logits(
        self, embeds: Tensor, position_ids: Tensor, attention_mask: Tensor, answered: Tensor, rows: Tensor
    ) -> Tensor:
        """Log-probabilities that the language model without its LoRA gives at the answered positions of `rows`."""
        with self.llm.disable_adapter():
            hidden = self._hidden(embeds[rows], position_ids[rows], attention_mask[rows])[:, :-1][answered[rows]]
            return self.base_llm.get_output_embeddings()(hidden).float().log_softmax(-1)

    def _hidden(self, embeds: Tensor, position_ids: Tensor, attention_mask: Tensor) -> Tensor:
        decoder = self.base_llm.get_decoder()
        hidden: Tensor = decoder(
            inputs_embeds=embeds, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return hidden

    def _unused(self) -> Tensor:
        """Zero, by way of every connector parameter: a batch without pictures must not leave them out, or
        processes that train together wait for each other for ever."""
        parameters = [parameter for parameter in self.connector.parameters() if parameter.requires_grad]
        if self.image_newline is not None:
            parameters.append(self.image_newline)
        zero: Tensor = sum((parameter.sum() * 0 for parameter in parameters), torch.zeros(()))
        return zero.to(self.base_llm.get_input_embeddings().weight.device)


def image_spec(model: DenseConnectorModel) -> ImageSpec:
    """How this model's pictures are prepared: squared with the mean colour, as the paper's stages do."""
    vision = model.config.vision
    fit = "stretch" if model.config.fit == "anyres" else model.config.fit
    return ImageSpec(size=vision.image_size, fit=fit, mean=vision.image_mean, std=vision.image_std)
