"""Videos, PNG, EXR and npy: what is read back is what was written; nothing half bears the final name."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation

from scene4d.errors import InputError
from scene4d.files.images import coding, encode, exr_planes, npy_bytes, png_bytes, read_png, write_png
from scene4d.files.images_shown import depth_colors, flow_colors, id_colors, normal_colors
from scene4d.files.video import VideoWriter, frame_rate


def smooth_frames(count: int, height: int, width: int) -> list[np.ndarray]:
    """Saturated colours that change slowly over picture and time, float [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    waves = [np.stack([x / 31 + 0.05 * k, y / 23 - 0.05 * k, (x - y) / 37], -1) for k in range(count)]
    return [0.5 + 0.4 * np.sin(wave + np.array([0.0, 2.0, 4.0])) for wave in waves]


def decoded(path: Path) -> list[np.ndarray]:
    """RGB by the file's own tags; swscale's short cuts, on by default, would add errors of the reader."""
    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [frame.reformat(format="rgb24", interpolation=exact).to_ndarray() for frame in frames]


def converted_by_hand(frame: av.VideoFrame) -> np.ndarray:
    """RGB in [0, 1] of a decoded yuv frame by the equations of BT.709, limited range, colour repeated."""
    planes = frame.to_ndarray(format="yuv444p").astype(np.float64)  # only resamples
    y, cb, cr = (planes[0] - 16) / 219, (planes[1] - 128) / 224, (planes[2] - 128) / 224
    red, blue = y + 1.5748 * cr, y + 1.8556 * cb
    return np.stack([red, (y - 0.2126 * red - 0.0722 * blue) / 0.7152, blue], -1)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_smooth_frames_come_back_within_a_few_steps_of_255(tmp_path: Path, suffix: str) -> None:
    """One step of 8-bit Cb is 2.1 steps of blue, so 1 on average is what rounding alone costs."""
    frames = smooth_frames(5, 96, 128)
    with VideoWriter(tmp_path / f"a{suffix}", 128, 96, 24) as video:
        for frame in frames:
            video.add(frame)
    back = decoded(tmp_path / f"a{suffix}")
    assert len(back) == 5
    for got, frame in zip(back, frames, strict=True):
        error = np.abs(got - 255 * frame)
        assert error.mean() < 1.5 and np.quantile(error, 0.95) < 3.6


def test_colours_follow_bt709_in_limited_range_and_the_tags_say_so(tmp_path: Path) -> None:
    """Large even patches: no compression or resampling can move their middle."""
    colors = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [0.2, 0.5, 0.8]])
    image = np.repeat(np.repeat(colors[None], 32, 1), 32, 0)
    with VideoWriter(tmp_path / "a.mp4", 192, 32, 24) as video:
        video.add(image)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_range, context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1, 1)
        assert context.pix_fmt == "yuv420p" and context.name == "h264"
        frame = next(container.decode(video=0))
    middles = converted_by_hand(frame)[16, 16::32]
    assert np.abs(middles - colors).max() < 2.5 / 255
    assert np.abs(frame.to_ndarray(format="rgb24")[16, 16::32] / 255 - colors).max() < 2.5 / 255


def test_prores_keeps_more_than_eight_bits(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0.4, 0.45, 256)[None, :, None], 64, 0).repeat(3, 2)  # 13 steps of 8 bits
    with VideoWriter(tmp_path / "a.mov", 256, 64, 25) as video:
        video.add(ramp)
    with av.open(str(tmp_path / "a.mov")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace) == ("prores", "yuv422p10le", 1)
        frame = next(container.decode(video=0))
        luma = np.frombuffer(frame.planes[0], np.uint16).reshape(64, -1)[32, :256]
    assert len(np.unique(luma)) > 30


@pytest.mark.parametrize(("width", "height"), [(33, 20), (32, 21), (1, 1), (35, 27)])
def test_odd_sides_are_padded_by_repeating_the_last_column_and_row(tmp_path: Path, width: int, height: int) -> None:
    frame = smooth_frames(1, height, width)[0]
    with VideoWriter(tmp_path / "a.mp4", width, height, 24) as video:
        video.add(frame)
        assert video.padded == (width + width % 2, height + height % 2)
    back = decoded(tmp_path / "a.mp4")[0].astype(float)
    assert back.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(back[:height, :width] - 255 * frame).mean() < 4
    assert np.abs(back[height - 1 :] - 255 * frame[-1, np.minimum(np.arange(back.shape[1]), width - 1)]).max() < 25


def test_frames_are_spaced_by_the_rate(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 16, 16, 29.97) as video:
        for frame in smooth_frames(7, 16, 16):
            video.add(frame)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([k * 1001 / 30000 for k in range(7)], abs=1e-4)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(23.976, Fraction(24000, 1001)), (25, Fraction(25)), (12.5, Fraction(25, 2)), (30, Fraction(30))],
)
def test_rates_of_television_are_exact(fps: float, expected: Fraction) -> None:
    assert frame_rate(fps) == expected


def test_video_bears_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, 16, 16, 24) as video:
        video.add(np.zeros((16, 16, 3)))
        assert path.read_bytes() == b"before"
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    with pytest.raises(InputError, match="at least one frame"), VideoWriter(path, 16, 16, 24):
        pass
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_wrong_videos_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path must end in .mp4 or .mov"):
        VideoWriter(tmp_path / "a.gif", 16, 16, 24)
    with pytest.raises(InputError, match="cannot be written"):
        VideoWriter(tmp_path / "none" / "a.mp4", 16, 16, 24)
    with pytest.raises(ValueError, match="image must have shape"), VideoWriter(tmp_path / "a.mp4", 16, 16, 24) as video:
        video.add(np.zeros((16, 17, 3)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planes", [None, 3])
def test_png_gives_back_every_number(tmp_path: Path, dtype: type, planes: int | None) -> None:
    shape = (7, 9) if planes is None else (7, 9, planes)
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    write_png(tmp_path / "a.png", image)
    back = read_png(tmp_path / "a.png")
    assert back.dtype == dtype and np.array_equal(back, image)


def test_png_of_floats_is_refused() -> None:
    with pytest.raises(ValueError, match="image must be uint8 or uint16"):
        png_bytes(np.zeros((3, 3)))


MAPS = {
    "rgb": np.random.default_rng(1).random((5, 6, 3)),
    "alpha": np.random.default_rng(2).random((5, 6)),
    "depth": 8 * np.random.default_rng(3).random((5, 6)),
    "flow": 40 * (np.random.default_rng(4).random((5, 6, 2)) - 0.5),
    "normal": np.random.default_rng(5).random((5, 6, 3)) * 2 - 1,
    "label": np.random.default_rng(6).integers(-1, 40, (5, 6)),
    "id": np.random.default_rng(7).integers(-1, 4000, (5, 6)),
}


@pytest.mark.parametrize("channel", MAPS)
def test_numbers_of_a_16_bit_png_decode_to_the_map_within_half_a_step(channel: str) -> None:
    values = MAPS[channel]
    coded, how = encode(channel, values, 0.0005), coding(channel, 0.0005)
    assert coded.values.dtype == np.uint16 and coded.clipped == 0
    numbers = coded.values[..., :2] if channel == "flow" else coded.values
    back = numbers.astype(float) * how["scale"] + how["offset"]
    assert np.abs(back - values).max() <= 0.5001 * how["scale"] * (channel not in ("label", "id"))


def test_depths_beyond_the_scale_are_counted_and_held() -> None:
    coded = encode("depth", np.array([[1.0, 70.0, 0.0]]), 0.001)
    assert coded.clipped == 1 and coded.values.tolist() == [[1000, 65535, 0]]


@pytest.mark.parametrize("channel", MAPS)
def test_exr_and_npy_give_back_float32_exactly(tmp_path: Path, channel: str) -> None:
    pytest.importorskip("OpenEXR", reason="openexr is not installed")
    from scene4d.files.exr import read_exr, write_exr

    values = MAPS[channel].astype(np.float32)
    planes = exr_planes(channel, values)
    write_exr(tmp_path / "a.exr", planes)
    back = read_exr(tmp_path / "a.exr")
    assert set(back) == set(planes)
    stacked = np.stack([back[name] for name in planes], -1).reshape(values.shape)
    assert stacked.dtype == np.float32 and np.array_equal(stacked, values)
    assert np.array_equal(np.load(io.BytesIO(npy_bytes(values)), allow_pickle=False), values)


def test_bad_exr_files_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("OpenEXR", reason="openexr is not installed")
    from scene4d.files.exr import exr_bytes, read_exr

    (tmp_path / "a.exr").write_bytes(b"no exr")
    with pytest.raises(InputError, match="is no OpenEXR file"):
        read_exr(tmp_path / "a.exr")
    with pytest.raises(ValueError, match="planes must be float32"):
        exr_bytes({"Z": np.zeros((2, 2))})


def test_near_is_red_far_is_blue_and_nothing_black() -> None:
    near, far, beyond, nothing = depth_colors(np.array([[2.0, 10.0, 99.0, 0.0]]), 2.0, 10.0)[0].astype(int)
    assert near[0] > near[2] + 50 and far[2] > far[0] and (far == beyond).all() and (nothing == 0).all()
    between = depth_colors(np.array([[10 / 3]]), 2.0, 10.0)  # 1/z halfway: turbo's middle is green
    assert between[0, 0].argmax() == 1


def test_flow_wheel_is_white_at_rest_and_turns_with_the_direction() -> None:
    flow = np.array([[[0, 0], [4, 0], [0, 4], [-4, 0], [0, -4], [2, 0], [8, 0]]], float)
    rest, right, down, left, up, slow, fast = flow_colors(flow, 4.0)[0].astype(int)
    assert (rest == 255).all()
    assert right.tolist() == [255, 0, 0]
    assert down[0] > 200 and down[1] > 150 and down[2] < 50  # yellow
    assert left[0] < 50 and left[1] > 150 and left[2] > 200  # cyan to blue
    assert up[2] > 200 and up[1] < 50  # magenta to blue
    assert abs(slow[1] - 128) <= 1 and (fast < right + 1).all() and fast[0] < 200


def test_normals_are_centred_at_grey_and_ids_have_colours_that_keep_apart() -> None:
    normals = normal_colors(np.array([[[0, 0, -1.0], [1, 0, 0], [0, 0, 0]]]))[0].tolist()
    assert normals == [[128, 128, 0], [255, 128, 128], [0, 0, 0]]
    colors = id_colors(np.arange(-1, 30)[None])[0].astype(int)
    assert colors[0].tolist() == [0, 0, 0]
    distance = np.abs(colors[:, None] - colors[None]).sum(-1) + 1000 * np.eye(31, dtype=int)
    assert distance.min() > 30
    assert (id_colors(np.array([[5, 2]]))[0] == colors[[6, 3]]).all()  # whatever else is in the picture
