"""Videos of phones, cameras and editors, and what their decoders leave where they fail."""

from pathlib import Path

import av
import numpy as np
import pytest

from holdprep.errors import HoldprepError
from holdprep.io import hdr
from holdprep.io.video import Frame, Video
from holdprep.quality.gates import judge
from holdprep.quality.pictures import PictureCheck
from tests.kinds import films
from tests.kinds.registry import kind

FRAMES = [films.picture(t) for t in range(24)]


def _same(path: Path, limit: float = 5.0) -> Video:
    frames, bad, video = films.read(path)
    assert not bad and [f.name for f in frames] == [f"{t:04d}" for t in range(len(FRAMES))]
    assert max(films.off(f.image, truth) for f, truth in zip(frames, FRAMES, strict=True)) < limit
    return video


@kind("video: AV1, VP9, HEVC of 10 bits, ProRes, MJPEG, MPEG-4")
def codecs(folder: Path) -> None:
    for name, codec in (
        ("av1.mp4", "libsvtav1:yuv420p"),
        ("vp9.webm", "libvpx-vp9:yuv420p"),
        ("ten.mp4", "libx265:yuv420p10le"),
        ("prores.mov", "prores_ks:yuv422p10le"),
        ("jpeg.avi", "mjpeg:yuvj420p"),
        ("m4.avi", "mpeg4:yuv420p"),
    ):
        assert _same(films.write(folder / name, FRAMES, codec, options={"crf": "20", "preset": "10"} if "av1" in name else {})).notes == []


@kind("video: interlaced")
def interlaced(folder: Path) -> None:
    """Fields of two times in each frame: the lines of the second field are replaced, those of the first one kept."""
    woven = [FRAMES[2 * t].copy() for t in range(12)]
    for t, image in enumerate(woven):
        image[1::2] = FRAMES[2 * t + 1][1::2]
    path = films.write(folder / "i.mp4", woven, options={"x264-params": "interlaced=1:tff=1", "crf": "12"})
    frames, bad, video = films.read(path)
    assert len(frames) == 12 and not bad and "interlaced" in video.notes[0] and "(12 frames)" in video.notes[0]
    assert [f.time_s for f in frames] == pytest.approx([t / 30 for t in range(12)], abs=1e-6)
    combed, filled = (
        np.mean([np.abs(np.diff(i[44:68].astype(int), axis=0)).mean() for i in images]) for images in (woven, [f.image for f in frames])
    )
    assert filled < 0.4 * combed
    assert all(films.off(f.image, FRAMES[2 * t]) < 5 for t, f in enumerate(frames))


@kind("video: turned and mirrored by metadata")
def turned(folder: Path) -> None:
    for angle in (90, 180, 270):
        path = films.write(folder / f"{angle}.mp4", FRAMES[:4], adjust=lambda s, a=angle: s.set_display_rotation(a))
        image = films.read(path)[0][0].image
        assert films.off(image, np.rot90(FRAMES[0], angle // 90)) < 5
    one = 1 << 16
    path = films.write(folder / "m.mp4", FRAMES[:4], adjust=lambda s: s.set_display_matrix([-one, 0, 0, 0, one, 0, 0, 0, 1 << 30]))
    frames, _, video = films.read(path)
    assert films.off(frames[0].image, FRAMES[0][:, ::-1]) < 5
    assert "turned or mirrored" in video.notes[0]


@kind("video: pixels that are not square")
def oblong(folder: Path) -> None:
    from fractions import Fraction

    for aspect, size in ((Fraction(3, 2), (96, 192)), (Fraction(1, 2), (192, 128))):
        path = films.write(
            folder / f"{aspect.numerator}.mp4", FRAMES[:4], adjust=lambda s, a=aspect: setattr(s.codec_context, "sample_aspect_ratio", a)
        )
        frames, _, video = films.read(path)
        assert frames[0].image.shape[:2] == size
        assert "stretched to square" in video.notes[0]
    near = films.write(
        folder / "near.mp4", FRAMES[:4], adjust=lambda s: setattr(s.codec_context, "sample_aspect_ratio", Fraction(964, 963))
    )
    assert films.read(near)[2].notes == []  # what an encoder of odd sizes writes moves no pixel


@kind("video: HDR (PQ, HLG) in BT.2020")
def high_range(folder: Path) -> None:
    """Grey and coloured patches of known sRGB values, coded by the published curves, come back; highlights stay below white."""
    srgb = np.array([[40, 40, 40], [120, 120, 120], [180, 90, 60], [60, 150, 200], [200, 200, 200]], float)
    linear = np.where(srgb / 255 <= 0.04045, srgb / 255 / 12.92, ((srgb / 255 + 0.055) / 1.055) ** 2.4)
    nits = hdr.WHITE_NITS * linear @ np.linalg.inv(hdr.BT2020_TO_BT709).T
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    pq = ((c1 + c2 * (nits / 1e4) ** m1) / (1 + c3 * (nits / 1e4) ** m1)) ** m2
    luminance = nits @ hdr.LUMA[0] / 1000
    scene = np.maximum(nits / 1000 / luminance[:, None] ** (1 - 1 / 1.2), 1e-9)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    hlg = np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)
    for transfer, code in ((hdr.PQ, pq), (hdr.HLG, hlg)):
        found = hdr.to_sdr(np.round(code * 65535).astype(np.uint16)[None], transfer)[0, :, ::-1]
        assert np.abs(found.astype(int) - srgb).max() <= 2
        assert 200 < hdr.to_sdr(np.full((1, 1, 3), 52000, np.uint16), transfer).max() <= 255

    def tag(frame: av.VideoFrame) -> av.VideoFrame:
        tagged = frame.reformat(format="yuv420p10le", dst_colorspace=9)
        tagged.color_trc, tagged.color_primaries = 16, 9
        return tagged

    parameters = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:log-level=none"
    path = films.write(folder / "pq.mp4", FRAMES[:6], "libx265:yuv420p10le", options={"x265-params": parameters}, tag=tag)
    frames, bad, video = films.read(path)
    assert len(frames) == 6 and not bad and "PQ (HDR): tone-mapped to SDR" in video.notes[0]


@kind("video: trimmed by an edit list")
def trimmed(folder: Path) -> None:
    whole = films.write(folder / "whole.mp4", FRAMES, options={"bf": "0"})
    path = folder / "trimmed.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts, packet.dts = (x - 7 * packet.duration for x in (packet.pts, packet.dts))
                packet.stream = stream
                target.mux(packet)
    frames, bad, video = films.read(path)
    assert [f.name for f in frames] == [f"{t:04d}" for t in range(17)] and not bad
    assert all(films.off(f.image, FRAMES[t + 7]) < 5 for t, f in enumerate(frames))
    assert frames[0].time_s == 0 and video.missing_s == 0 and "7 frames that its edit list leaves out" in video.notes[0]


@kind("video: exact times of a variable frame rate")
def variable(folder: Path) -> None:
    times = [0, 1, 2, 5, 6, 9, 20, 21, 22, 40, 41, 44]
    frames, _, _ = films.read(films.write(folder / "v.mp4", FRAMES[:12], times=times))
    assert [f.time_s for f in frames] == pytest.approx([t / 30 for t in times], abs=1e-4)


@kind("video: damaged packets are never used, nor what is predicted from them")
def damage(folder: Path) -> None:
    left_out = 0
    for name, codec in (("a.mp4", "libx264:yuv420p"), ("b.avi", "mpeg4:yuv420p"), ("c.avi", "mjpeg:yuvj420p")):
        whole = films.write(folder / name, FRAMES, codec)
        truth = {f.name: f.image for f in films.read(whole)[0]}
        for seed, packet in enumerate((3, 8, 15)):
            frames, bad, _ = films.read(films.damaged(whole, packet, seed))
            assert all(films.off(f.image, truth[f.name]) < 0.1 for f in frames)
            assert len(frames) + len(bad) == len(FRAMES)
            left_out += len(bad)
    assert left_out >= 9


@kind("video: cut short")
def cut_short(folder: Path) -> None:
    whole = films.write(folder / "w.mkv", FRAMES, options={"bf": "0"})
    data = whole.read_bytes()
    (folder / "cut.mkv").write_bytes(data[: len(data) * 4 // 5])
    frames, _, video = films.read(folder / "cut.mkv")
    assert 2 <= len(frames) < 22 and video.missing_s > 0.05
    assert all(films.off(f.image, FRAMES[t]) < 5 for t, f in enumerate(frames))
    assert films.read(whole)[2].missing_s == 0


@kind("video: what is none is refused with FFmpeg's command")
def refused(folder: Path) -> None:
    whole = films.write(folder / "my clip (1).mp4", FRAMES)
    (folder / "half.mp4").write_bytes(whole.read_bytes()[:2000])
    (folder / "text.mp4").write_text("not a video")
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux([*stream.encode(silence), *stream.encode()])
    for name in ("half.mp4", "text.mp4", "sound.mp4"):
        with pytest.raises(HoldprepError, match=r"cannot be decoded .*ffmpeg -i .* out\.mp4\)") as error:
            films.read(folder / name)
        assert "\n" not in str(error.value)
    assert "'" in str(Video(whole).refused("x"))  # the path is quoted for a shell


@kind("pictures: dark, of one colour and repeated fail a gate, clean ones do not")
def nothing_to_see(folder: Path) -> None:
    rng = np.random.default_rng(0)
    clean = [np.clip(f + rng.normal(0, 2, f.shape), 0, 255).astype(np.uint8) for f in FRAMES]
    cases = {
        None: clean,
        "dark_pct": [f // 12 for f in clean],
        "flat_pct": [np.full_like(f, 40 + 5 * t) if t % 3 == 0 else f for t, f in enumerate(clean)],
        "repeated_pct": [clean[t - t % 3] for t in range(24)],
    }
    for wrong, images in cases.items():
        check = PictureCheck()
        for image in images:
            check.add(image)
        failed = {gate.metric for gate in judge("create", check.metrics()) if gate.status == "fail"}
        assert failed - {"flat_pct"} == ({wrong} - {None, "flat_pct"}) and (wrong != "flat_pct" or "flat_pct" in failed)
        assert wrong is not None or not failed


@kind("pictures: the demo clip passes these gates")
def demo_passes(folder: Path) -> None:
    import holdprep

    check = PictureCheck()
    for t, frame in enumerate(Video(Path(holdprep.__file__).parent / "assets" / "demo" / "cube.mp4").frames()):
        if t > 40:
            break
        assert isinstance(frame, Frame)
        check.add(frame.image)
    assert {gate.status for gate in judge("create", check.metrics())} == {"pass"}
