"""CLIP's class token in the llama.cpp projector: last where it should be first, so refused unless asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dclocal.errors import UserError
from dclocal.images import to_pixels
from dclocal_export.mmproj import llama_cpp_embeds, write_mmproj
from dclocal_models.vlm import DenseConnectorModel, image_spec
from tests.mmproj_models import CASES, error, picture, seen, small_model

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
void * ggml_concat(void * context, void * first, void * second, int axis) {
    void * library = dlopen("libggml-base.so.0", RTLD_NOLOAD | RTLD_LAZY);
    void * (*concat)(void *, void *, void *, int) = dlsym(library, "ggml_concat");
    const char * (*name)(void *) = dlsym(library, "ggml_get_name");
    int swap = axis == 1 && !strcmp(name(second), "v.class_embd");
    return swap ? concat(context, second, first, axis) : concat(context, first, second, axis);
}
"""
"""llama.cpp's issue 25814 mended from outside: the class token is put first."""
READ = """
import sys, numpy as np
from pathlib import Path
from PIL import Image
from dclocal_export.mmproj import llama_cpp_embeds
folder = Path(sys.argv[1])
for file in sorted(folder.glob("*.gguf")):
    embeds = llama_cpp_embeds(file, Path(sys.argv[2]), [Image.open(file.with_suffix(".png"))], 1)
    np.save(file.with_suffix(".npy"), embeds[0])
"""


@pytest.fixture(scope="module")
def class_token_first(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """By case, how far a CLIP file is off in a llama.cpp whose class token stands first."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and the Linux loader")
    folder = tmp_path_factory.mktemp("clip")
    (folder / "shim.c").write_text(SHIM)
    shim = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", folder / "shim.c", "-o", shim, "-ldl"], check=True)
    wanted = {}
    for case, settings in CASES.items():
        model = small_model("clip", **settings)
        side = model.config.vision.image_size
        write_mmproj(model, folder / f"{case}.gguf", dtype="f32", class_token_first=True)
        picture(side, side).save(folder / f"{case}.png")
        wanted[case] = seen(model, picture(side, side))
    environment = {**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", READ, folder, tiny_gguf], check=True, env=environment, timeout=300)
    return {case: error(np.load(folder / f"{case}.npy"), values) for case, values in wanted.items()}


@pytest.mark.parametrize("case", CASES)
def test_clip_embeddings_are_the_models_where_the_class_token_stands_first(
    case: str, class_token_first: dict[str, float]
) -> None:
    assert class_token_first[case] < 2e-3


def test_clip_is_refused_for_llama_cpps_class_token(tiny_gguf: Path, tmp_path: Path) -> None:
    """Once this fails, llama.cpp is mended: let CLIP models be written without being asked."""
    model = small_model("clip", kind="dci")
    with pytest.raises(UserError, match="class token.*25814"):
        write_mmproj(model, tmp_path / "mmproj.gguf")
    assert not list(tmp_path.iterdir())
    report = write_mmproj(model, tmp_path / "mmproj.gguf", dtype="f32", class_token_first=True)
    assert any("25814" in line for line in report.differences)
    image = picture(56, 56)
    (found,) = llama_cpp_embeds(report.path, tiny_gguf, [image], 1)
    assert error(found, seen(model, image)) > 0.5
    assert error(found, _class_token_last(model, image)) < 2e-3


def _class_token_last(model: DenseConnectorModel, image: Image.Image) -> np.ndarray:
    """What becomes of a picture where the class token follows the patches and positions stay as they are."""
    tower = model.vision.tower.vision_model
    with torch.no_grad():
        pixels = torch.from_numpy(to_pixels([image], image_spec(model)))
        patches = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        rows = torch.cat([patches, tower.embeddings.class_embedding[None, None]], dim=1)
        stem = tower.pre_layrnorm(rows + tower.embeddings.position_embedding.weight)
        states = tower.encoder(stem, output_hidden_states=True).hidden_states
        return model.connector([state[:, 1:] for state in states])[0].numpy()
