"""Exact names of what can be put together; an unknown name lists the known ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from dclocal_models.connector_kinds import (
    BaselineConnector,
    ChannelConnector,
    ConvolvedChannelConnector,
    ConvolvedTokenConnector,
    DenseChannelConnector,
    NormedDenseChannelConnector,
    TokenConnector,
)
from dclocal_models.fused import ClipConvNextBackbone, Dinov2EfficientNetBackbone
from dclocal_models.vision import ClipBackbone, Dinov2Backbone, SiglipBackbone

BACKBONES = {
    "clip": ClipBackbone,
    "siglip": SiglipBackbone,
    "dinov2": Dinov2Backbone,
    "dinov2+efficientnet_lite2": Dinov2EfficientNetBackbone,
    "clip+convnext": ClipConvNextBackbone,
}
CONNECTORS = {
    "baseline": BaselineConnector,
    "sti": TokenConnector,
    "sci": ChannelConnector,
    "dci": DenseChannelConnector,
    "sti_conv": ConvolvedTokenConnector,
    "sci_conv": ConvolvedChannelConnector,
    "dci_linear": NormedDenseChannelConnector,
}

Entry = TypeVar("Entry")


def lookup(registry: Mapping[str, Entry], name: str, what: str) -> Entry:
    """The entry of that exact name; raises ValueError listing the known names."""
    if name not in registry:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(sorted(registry))}")
    return registry[name]
