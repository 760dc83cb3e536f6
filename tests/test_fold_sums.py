"""What a user would lose: time, where sums kept the order in which they were exported; answers, where they changed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from dclocal.fold_sums import fold_sums
from dclocal.optimize import fold_constants


class Means(nn.Module):
    """As dense connectors have it: layers without their class token, stacked, of two groups."""

    def forward(self, layers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        each = [(layers * (i + 1)).sin()[:, 1:] for i in range(5)]
        return torch.stack(each[:3]).mean(0), torch.stack(each[3:]).mean(0)


class Whole(nn.Module):
    """Layers that are not cut alike, so that they are added as they are."""

    def forward(self, layers: torch.Tensor) -> torch.Tensor:
        return torch.stack([layers.sin()[:, 1:], layers.cos()[:, :-1]]).mean(0)


class Inner(nn.Module):
    """Layers that lose their last place, too: before it they might have had other lengths."""

    def forward(self, layers: torch.Tensor) -> torch.Tensor:
        return torch.stack([layers.sin()[:, 1:-1], layers.cos()[:, 1:-1]]).mean(0)


class LookUps(nn.Module):
    """Words' letters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randint(0, 6, (40, 3)))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[0][self.table].sum(1)


class Others(nn.Module):
    """Sums that look alike and are others: of another axis, kept, weighed, and of what something else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randint(0, 6, (40, 3)))

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        looked_up, stacked = rows[0][self.table], torch.stack([rows.sin(), rows.cos()])
        return (
            looked_up.sum(0),
            looked_up.sum(1, keepdim=True),
            stacked.mean(1),
            stacked.mean(0, keepdim=True),
            torch.stack([rows.exp(), rows.tanh()], 1).mean(0),
            stacked,
        )


def _folded(
    module: nn.Module, folder: Path
) -> tuple[tuple[int, int], Counter[str], list[tuple[np.ndarray, np.ndarray]]]:
    """How many were mended, the kinds of nodes after it, and each output before and after."""
    exported, source, out = (folder / f"{name}.onnx" for name in ("exported", "source", "out"))
    example = torch.randn(2, 6, 8)
    torch.onnx.export(module, (example,), exported, input_names=["x"], opset_version=17, dynamo=False)
    fold_constants(exported, source)
    graph = onnx.load(source)
    found = fold_sums(graph)
    onnx.checker.check_model(graph)
    onnx.save(graph, out)
    results = [
        onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {"x": example.numpy()})
        for file in (source, out)
    ]
    return found, Counter(node.op_type for node in graph.graph.node), list(zip(*results))


@pytest.mark.parametrize(
    ("module", "count", "gone", "kept"),
    [
        (Means(), (2, 0), {"Concat", "Unsqueeze", "ReduceMean"}, {"Slice": 2, "Add": 3}),
        (Whole(), (1, 0), {"Concat", "Unsqueeze", "ReduceMean"}, {"Slice": 2, "Add": 1}),
        (Inner(), (1, 0), {"Concat", "Unsqueeze", "ReduceMean"}, {"Slice": 2, "Add": 1}),
    ],
    ids=["cut", "not cut alike", "cut at both ends"],
)
def test_a_mean_of_layers_is_added_and_cut_once(
    module: nn.Module, count: tuple[int, int], gone: set[str], kept: dict[str, int], tmp_path: Path
) -> None:
    found, kinds, outputs = _folded(module, tmp_path)
    assert found == count and not gone & set(kinds) and {kind: kinds[kind] for kind in kept} == kept
    for before, after in outputs:
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_rows_that_are_looked_up_are_added_as_long_ones(tmp_path: Path) -> None:
    found, _, outputs = _folded(LookUps(), tmp_path)
    assert found == (0, 1)
    for before, after in outputs:
        np.testing.assert_allclose(after, before, atol=1e-6)


def test_other_sums_stay_as_they_are(tmp_path: Path) -> None:
    found, _, outputs = _folded(Others(), tmp_path)
    assert found == (0, 0)
    for before, after in outputs:
        np.testing.assert_array_equal(after, before)
