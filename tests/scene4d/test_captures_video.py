"""Frames of videos by number: exact in any order, bounded in memory, refused when damaged."""

from __future__ import annotations

import gc
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from scene4d.captures.frames import CameraTrack, FrameStore
from scene4d.captures.video import VideoDecoder, scan_video
from scene4d.errors import InputError
from tests.scene4d.captures_on_disk import counting_frame, counting_video, opened, read_count, write_video


def test_frames_come_exactly_whatever_the_order(tmp_path: Path) -> None:
    """B-frames and a key frame each 12 frames: seeking lands between them."""
    decoder = VideoDecoder(scan_video(counting_video(tmp_path / "a.mp4", 100)))
    rng = np.random.default_rng(0)
    order = [0, 1, 2, 99, 98, 13, 12, 11, 50, 50, 51, 60, 25, *rng.integers(0, 100, 40).tolist()]
    assert [read_count(decoder.read(i)) for i in order] == order


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")])
def test_other_containers_and_codecs_are_exact_too(tmp_path: Path, name: str, codec: str) -> None:
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        if codec == "mpeg4":
            stream.codec_context.gop_size, stream.codec_context.max_b_frames = 10, 2
        for i in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(counting_frame(i), format="rgb24")))
        container.mux(stream.encode(None))
    file = scan_video(tmp_path / name)
    decoder = VideoDecoder(file)
    assert len(file) == 40 and file.fps == 25.0
    assert [read_count(decoder.read(i)) for i in (0, 39, 17, 3, 30, 29)] == [0, 39, 17, 3, 30, 29]


def test_uneven_frame_times_do_not_shift_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"g": "8", "bf": "2"}
        stream.codec_context.time_base = Fraction(1, 600)
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(counting_frame(i), format="rgb24")
            frame.pts, frame.time_base = 20 * i + (9 if i % 3 == 0 else 0), Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file = scan_video(path)
    decoder = VideoDecoder(file)
    assert not file.steady()
    assert [read_count(decoder.read(i)) for i in (29, 5, 6, 12, 0)] == [29, 5, 6, 12, 0]


def test_colours_follow_the_matrix_that_the_file_is_tagged_with(tmp_path: Path) -> None:
    """A BT.709 file read with BT.601 would be 10 levels off in green."""
    colour = np.zeros((48, 64, 3), np.uint8)
    colour[:] = (40, 180, 90)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        stream.options = {"crf": "1"}
        stream.codec_context.colorspace = 1
        frame = av.VideoFrame.from_ndarray(colour, format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv444p", dst_colorspace="itu709")))
        container.mux(stream.encode(None))
    found = VideoDecoder(scan_video(path)).read(0)
    assert np.abs(found.astype(int) - colour).max() <= 4  # 8-bit YUV and back


def write_header_first(whole: Path, front: Path) -> Path:
    """A copy with its header before its pictures, as cameras that stream write it: what is left of it opens."""
    with av.open(str(whole)) as source, av.open(str(front), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return front


@pytest.mark.parametrize("kept", [0.97, 0.6, 0.2])
def test_a_truncated_video_is_refused_in_one_line(tmp_path: Path, kept: float) -> None:
    whole = write_video(tmp_path / "a.mp4", [counting_frame(i) for i in range(60)])
    for path in (write_header_first(whole, tmp_path / "front.mp4"), whole):
        data = path.read_bytes()
        path.write_bytes(data[: int(kept * len(data))])
        with pytest.raises(InputError, match=path.name) as error:
            scan_video(path)
        assert "\n" not in str(error.value) and ("truncated" in str(error.value) or "damaged" in str(error.value))


def test_a_video_cut_between_two_frames_is_refused_with_its_counts(tmp_path: Path) -> None:
    """Each packet that is left is whole: only the header knows of more."""
    whole = write_video(tmp_path / "a.mp4", [counting_frame(i) for i in range(60)])
    front = write_header_first(whole, tmp_path / "front.mp4")
    with av.open(str(front)) as container:
        ends = [p.pos + p.size for p in container.demux(container.streams.video[0]) if p.size and p.pos is not None]
    front.write_bytes(front.read_bytes()[: ends[41]])
    with pytest.raises(InputError, match="holds 42 of the 60 frames its header promises: it is truncated"):
        scan_video(front)


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 99, b"\0" * 4096])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match="a.mp4"):
        scan_video(tmp_path / "a.mp4")


def test_a_damaged_picture_is_refused_when_it_is_read_and_others_still_come(tmp_path: Path) -> None:
    path = counting_video(tmp_path / "a.mp4", 48)
    file = scan_video(path)
    with pytest.raises(InputError, match="frames 0 to 47, frame 48 was asked for"):
        VideoDecoder(file).read(48)
    path.unlink()
    with pytest.raises(InputError, match="frame 3 cannot be decoded"):
        VideoDecoder(file).read(3)


def resident_megabytes() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to read resident memory")
def test_reading_a_long_video_keeps_memory_flat(tmp_path: Path) -> None:
    """600 frames of 640x480 are 553 MB; with a cache of 20 MB memory grows by less than 60 after the first 50."""
    for name in ("a", "b"):
        counting_video(tmp_path / f"{name}.mp4", 300, width=640, height=480)
    capture = opened(tmp_path)
    capture.store.cache_bytes = 20 << 20
    for view in capture.views[:50]:
        capture.image_u8(view)
    before = resident_megabytes()
    for view in capture.views[50:]:
        capture.image_u8(view)
    assert resident_megabytes() - before < 60


def test_cache_and_open_decoders_stay_within_their_bounds(tmp_path: Path) -> None:
    files = [scan_video(counting_video(tmp_path / f"{i}.mp4", 20)) for i in range(4)]
    tracks = [CameraTrack(str(i), {"image": file}, ()) for i, file in enumerate(files)]
    store = FrameStore(cache_bytes=10 * 64 * 48 * 3, open_videos=2)
    for item in range(20):
        for track in tracks:
            picture = store.read(track, "image", item, (64, 48))
            assert picture is not None and read_count(picture) == item
    assert len(store._cache) == 10 and store._bytes == 10 * 64 * 48 * 3
    assert len(store._decoders) == 2


def test_listing_a_long_capture_costs_little_memory_per_view(tmp_path: Path) -> None:
    """Views of a static camera share pose and intrinsics: 72,000 views, ten minutes of four cameras, fit in 60 MB."""
    import json
    import tracemalloc

    counting_video(tmp_path / "a.mp4", 400)
    camera = {"name": "a", "video": "a.mp4", "K": [[70, 0, 32], [0, 70, 24], [0, 0, 1]],
              "world_to_cam": np.eye(4).tolist()}  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": [camera]}))
    tracemalloc.start()
    capture = opened(tmp_path)
    small = capture.resized(32)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size / (len(capture) + len(small)) < 800  # bytes a view
    assert len({id(v.K) for v in small.views}) == 1


def test_a_phone_video_is_turned_upright(tmp_path: Path) -> None:
    """The track header's matrix of a phone held upright (a b c d = 0 1 -1 0) turns the picture clockwise."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24] = 220  # the stored picture is white on top: upright, on the right
    path = write_video(tmp_path / "a.mp4", [picture] * 3)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags; times, id, duration; reserved; layer, volume
    data[at : at + 24] = b"".join(v.to_bytes(4, "big", signed=True) for v in (0, 1 << 16, 0, -(1 << 16), 0, 0))
    path.write_bytes(bytes(data))
    file = scan_video(path)
    upright = VideoDecoder(file).read(0)
    assert (file.width, file.height) == (48, 64) and upright.shape == (64, 48, 3)
    assert upright[:, 28:].mean() > 200 and upright[:, :20].mean() < 20
