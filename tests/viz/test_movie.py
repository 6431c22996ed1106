"""The video holds the frames that were written, in H.264."""

from pathlib import Path

import av
import numpy as np
import pytest

from holdprep.viz.movie import has_h264, write_movie


@pytest.mark.skipif(not has_h264(), reason="PyAV was built without an encoder of H.264")
def test_frames_come_back(tmp_path: Path):
    colors = [(200, 40, 30), (30, 180, 60), (40, 50, 210)]
    frames = [np.full((121, 161, 3), c, np.uint8) for c in colors for _ in range(4)]
    assert write_movie(tmp_path / "a.mp4", iter(frames), 7.6) == 12
    with av.open(str(tmp_path / "a.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 8)
        seen = [frame.to_ndarray(format="bgr24") for frame in video.decode(stream)]
    assert len(seen) == 12 and seen[0].shape == (120, 160, 3)
    for k, color in enumerate(colors):
        np.testing.assert_allclose(seen[4 * k + 1].mean(axis=(0, 1)), color, atol=8)
