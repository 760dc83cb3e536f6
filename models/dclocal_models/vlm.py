"""The assembled model: frozen vision backbone, dense connector, language model; saved and loaded as one folder.

A checkpoint folder holds `config.json`, `vision.safetensors`, `connector.safetensors`, the language model
with its tokenizer under `llm/` as transformers saves it, and, where it was trained with LoRA, `adapter/`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dclocal.bundle import ImageSpec
from dclocal_models.connectors import ConnectorConfig, DenseChannelConnector
from dclocal_models.registry import BACKBONES, CONNECTORS, lookup
from dclocal_models.vision import VisionConfig

CONFIG_FILE, VISION_FILE, CONNECTOR_FILE = "config.json", "vision.safetensors", "connector.safetensors"
IGNORED_LABEL = -100
LLM_FOLDER, ADAPTER_FOLDER = "llm", "adapter"


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the architecture and the prompt; `prompt` is a name in `dclocal.prompt.FORMATS`."""

    vision: VisionConfig
    connector: ConnectorConfig
    prompt: str = "chatml"
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """The config from `config.json`."""
        vision, connector = dict(data["vision"]), dict(data["connector"])
        for key in ("image_mean", "image_std"):
            vision[key] = tuple(vision[key])
        connector["token_grid"] = tuple(connector["token_grid"])
        return cls(
            VisionConfig(**vision), ConnectorConfig(**connector), data["prompt"], dict(data.get("provenance", {}))
        )


class DenseConnectorModel(nn.Module):
    """Pixels and text to next-token logits."""

    vision: Any
    connector: DenseChannelConnector
    llm: Any

    def __init__(self, config: ModelConfig, llm: Any):
        super().__init__()
        self.config = config
        self.vision = lookup(BACKBONES, config.vision.backbone, "vision backbone")(config.vision)
        self.vision.requires_grad_(False).eval()
        self.connector = lookup(CONNECTORS, config.connector.kind, "connector")(
            config.connector,
            depth=self.vision.depth,
            width=self.vision.width,
            grid=self.vision.grid,
            conv_channels=self.vision.conv_channels,
            n_embd=llm.config.hidden_size,
        )
        self.llm = llm

    def train(self, mode: bool = True) -> DenseConnectorModel:
        super().train(mode)
        self.vision.eval()
        return self

    @torch.no_grad()
    def vision_features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the frozen part yields: dense features `[n, N, dense_width]` and the convolutional map or None."""
        output = self.vision(pixels)
        return self.connector.integrate(output.hidden_states), output.conv_map

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Embeddings `[n, tokens, n_embd]` of normalised pixels `[n, 3, H, W]`."""
        return self.connector.project(*self.vision_features(pixels))

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
        dense: Tensor | None = None,
        conv_map: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean cross-entropy over labelled positions (`loss`), or without labels all `logits`.

        `attention_mask` is boolean `[batch, 1, length, length]`; `dense` and `conv_map` are the features of
        all images of the batch, in order.  Logits are computed at labelled positions alone.
        """
        image_embeds = None if dense is None else self.connector.project(dense, conv_map)
        embeds = self.embed(input_ids, image_mask, image_embeds)
        hidden = self.base_llm.model(
            inputs_embeds=embeds, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        if labels is None:
            return {"logits": self.base_llm.lm_head(hidden)}
        answered = labels[:, 1:] != IGNORED_LABEL
        logits = self.base_llm.lm_head(hidden[:, :-1][answered]).float()
        return {"loss": nn.functional.cross_entropy(logits, labels[:, 1:][answered])}


def image_spec(model: DenseConnectorModel) -> ImageSpec:
    """How this model's pictures are prepared: squared with the mean colour, as the paper's stages do."""
    vision = model.config.vision
    return ImageSpec(size=vision.image_size, fit="pad", mean=vision.image_mean, std=vision.image_std)


def save_checkpoint(model: DenseConnectorModel, tokenizer: Any, folder: Path) -> None:
    """Write a whole checkpoint under a temporary name and rename it; an older one is replaced."""
    part = folder.with_name(folder.name + ".part")
    _remove_tree(part)
    part.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in model.vision.state_dict().items()}, part / VISION_FILE)
    save_file(
        {name: tensor.float().contiguous() for name, tensor in model.connector.state_dict().items()},
        part / CONNECTOR_FILE,
    )
    llm = model.llm
    if hasattr(llm, "peft_config"):
        llm.save_pretrained(part / ADAPTER_FOLDER)
        _save_base(llm, part / LLM_FOLDER)
    else:
        llm.save_pretrained(part / LLM_FOLDER)
    tokenizer.save_pretrained(part / LLM_FOLDER)
    (part / CONFIG_FILE).write_text(json.dumps(asdict(model.config), indent=2) + "\n", encoding="utf-8")
    _remove_tree(folder)
    part.rename(folder)


def load_checkpoint(folder: Path, *, dtype: torch.dtype = torch.float32) -> tuple[DenseConnectorModel, Any]:
    """The model (LoRA applied but not merged) and its tokenizer; raises FileNotFoundError for a partial folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in (CONFIG_FILE, VISION_FILE, CONNECTOR_FILE, LLM_FOLDER):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder} is not a whole checkpoint: {name} is missing")
    config = ModelConfig.from_dict(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
    llm: Any = AutoModelForCausalLM.from_pretrained(folder / LLM_FOLDER, dtype=dtype)
    if (folder / ADAPTER_FOLDER).exists():
        from peft import PeftModel

        llm = PeftModel.from_pretrained(llm, folder / ADAPTER_FOLDER)
    model = DenseConnectorModel(config, llm)
    model.vision.load_state_dict(load_file(folder / VISION_FILE))
    model.connector.load_state_dict(load_file(folder / CONNECTOR_FILE))
    return model.eval(), AutoTokenizer.from_pretrained(folder / LLM_FOLDER)


def _save_base(peft_model: Any, folder: Path) -> None:
    """The language model without its LoRA layers, under its own tensor names."""
    base = peft_model.get_base_model()
    state = {
        name.replace(".base_layer.", "."): tensor.contiguous()
        for name, tensor in base.state_dict().items()
        if ".lora_" not in name
    }
    if base.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    base.config.save_pretrained(folder)
    base.generation_config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _remove_tree(folder: Path) -> None:
    import shutil

    if folder.exists():
        shutil.rmtree(folder)
