"""Depth networks from local folders: what goes in, what comes out, what is refused; and the scale of what comes out.

Weights are random.
"""

import json
from pathlib import Path

import pytest
import torch

from scene4d import models
from scene4d.errors import InputError
from scene4d.fitting.depth_maps import align


def tiny_network(depth_estimation_type: str = "relative"):
    """Depth Anything of a few thousand weights, patches of 14 pixels."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'scene4d[diffusion]'")
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        head_in_index=-1,
        depth_estimation_type=depth_estimation_type,
        max_depth=20 if depth_estimation_type == "metric" else 1,
    )
    return transformers.DepthAnythingForDepthEstimation(config).eval()


def test_a_network_saved_to_disk_gives_the_same_depth_when_it_is_loaded(tmp_path: Path) -> None:
    network = tiny_network()
    network.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 56, "width": 56}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]})
    )
    model = models.load_depth_model(tmp_path)
    assert (model.inverse, model.short_side, model.multiple) == (True, 56, 14)
    # 56 x 84 fits the network already, so nothing is resized and its own output has to come back
    image = torch.randint(0, 256, (56, 84, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    found = models.predict_depth(model, image)
    pixels = torch.stack([(image[..., c] / 255 - m) / s for c, m, s in ((0, 0.5, 0.2), (1, 0.4, 0.3), (2, 0.3, 0.4))])
    with torch.no_grad():
        truth = network(pixel_values=pixels[None]).predicted_depth[0]
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-6)
    assert float(found.std()) > 0


def test_a_metric_network_is_told_from_a_relative_one(tmp_path: Path) -> None:
    tiny_network("metric").save_pretrained(tmp_path)
    model = models.load_depth_model(tmp_path)
    assert not model.inverse
    assert (model.short_side, model.mean) == (models.SHORT_SIDE, models.IMAGENET_MEAN)


class Recorder(torch.nn.Module):
    """Stands for a network: keeps what it was given, answers with the first channel's column number."""

    def forward(self, pixel_values: torch.Tensor):
        self.given = pixel_values
        height, width = pixel_values.shape[-2:]

        class Answer:
            predicted_depth = (torch.arange(width) + 0.5).expand(1, height, width) / width

        return Answer()


def recording_model(short_side: int, multiple: int) -> models.DepthModel:
    return models.DepthModel(
        Recorder(), torch.device("cpu"), True, short_side, multiple, models.IMAGENET_MEAN, models.IMAGENET_STD
    )


def test_pictures_keep_their_shape_up_to_the_multiple_and_answers_come_back_at_their_size() -> None:
    model = recording_model(56, 14)
    found = models.predict_depth(model, torch.zeros(90, 160, 3, dtype=torch.uint8))
    assert model.network.given.shape == (1, 3, 56, 98)  # 56 x 99.6, to the nearest multiples of 14
    assert found.shape == (90, 160)
    middle = (torch.arange(160) + 0.5) / 160
    torch.testing.assert_close(found[40, 5:-5], middle[5:-5], rtol=0.0, atol=1e-4)  # resizing moves nothing aside


def test_colours_are_normalised_by_channel() -> None:
    model = recording_model(28, 14)
    models.predict_depth(model, torch.tensor([255, 0, 51], dtype=torch.uint8).expand(28, 28, 3))
    expected = [(x - m) / s for x, m, s in zip((1.0, 0.0, 0.2), models.IMAGENET_MEAN, models.IMAGENET_STD, strict=True)]
    torch.testing.assert_close(model.network.given[0, :, 9, 9], torch.tensor(expected))


def test_pictures_of_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image must be uint8 \[H, W, 3\], got torch.float32 \[28, 28, 3\]"):
        models.predict_depth(recording_model(28, 14), torch.zeros(28, 28, 3))


def test_folders_without_a_network_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="config.json is missing"):
        models.load_depth_model(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="model.safetensors is missing"):
        models.load_depth_model(tmp_path)


def test_weights_that_are_no_network_are_input_errors(tmp_path: Path) -> None:
    tiny_network().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="is no depth network"):
        models.load_depth_model(tmp_path)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"image_mean": [1]}', '{"size": {"width": "x"}}', '{"size": {}}', '{"image_std": 3}']
)
def test_preprocessing_that_cannot_be_understood_is_an_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(InputError, match="preprocessor_config.json: cannot be understood"):
        models._preprocessing(tmp_path)


def test_without_transformers_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(b"{}")

    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr(models, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'scene4d\[diffusion\]'"):
        models.load_depth_model(tmp_path)

    def broken(name: str):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(models, "import_module", broken)
    with pytest.raises(ImportError, match="pip uninstall torchvision"):
        models.load_depth_model(tmp_path)


# -- what a relative map says, brought to the depths of points


def test_alignment_finds_scale_and_shift_among_outliers() -> None:
    generator = torch.Generator().manual_seed(0)
    z = 1 + 9 * torch.rand(200, generator=generator)
    q = (1 / z - 0.05) / 3.0
    z[:60] = 1 + 9 * torch.rand(60, generator=generator)  # points that something hides
    found = align(q, z)
    assert found.scale == pytest.approx(3.0, rel=0.01)
    assert found.shift == pytest.approx(0.05, abs=0.002)
    assert found.residual < 0.01
    assert found.points == 200


@pytest.mark.parametrize("seed", range(4))
def test_alignment_counts_errors_relative_to_depth(seed: int) -> None:
    """Noise in proportion to depth: far points are worth as much as near ones, so the shift is found as well."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.cat([torch.linspace(1, 2, 300), torch.linspace(50, 60, 300)])
    noisy = z * (1 + 0.02 * torch.randn(600, generator=generator))
    found = align(0.5 / z + 2.0, noisy)
    far = 1 / (found.scale * (0.5 / 55 + 2.0) + found.shift)
    assert far == pytest.approx(55, rel=0.01)
    assert found.residual == pytest.approx(0.0135, abs=0.003)  # 0.67 of the standard deviation


def test_maps_of_the_wrong_kind_are_refused() -> None:
    z = torch.linspace(1, 10, 50)
    with pytest.raises(InputError, match="another kind"):
        align(z, z)
    with pytest.raises(InputError, match="another kind"):
        align(torch.rand(50, generator=torch.Generator().manual_seed(0)), z)
    with pytest.raises(ValueError, match=r"q and z must have shape \[m\]"):
        align(z[:3], z[:3])
    with pytest.raises(ValueError, match="z must be positive"):
        align(z, z - 5)
