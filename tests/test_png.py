import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_cli import images, png


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (7, 33)])
def test_pil_reads_the_same_pixels(channels, shape):
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))[..., None] * np.arange(
        1, channels + 1
    )
    noise = rng.integers(0, 256, (*shape, channels))
    for pixels in (
        smooth.astype(np.uint8),
        noise.astype(np.uint8),
        np.zeros((*shape, channels), np.uint8),
    ):
        if channels == 4:
            pixels[0, 0, 3] = 7  # not opaque
        got = images.decode(png.encode(pixels), name="x")
        assert np.array_equal(got, pixels)


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_text_comes_back(value):
    text = {"parameters": value, "t2i": "{}"}
    data = png.encode(np.zeros((2, 2, 3), np.uint8), text, xmp="<x/>")
    read = images.read_text(data, name="x")
    expected = value.replace("\0", "").encode("utf-8", "replace").decode()
    assert read.text == {"parameters": expected, "t2i": "{}"}
    assert read.xmp == "<x/>"


def test_same_bytes_and_no_larger_than_pil():
    rows = np.linspace(0, 255, 64)[:, None, None] * np.ones((1, 64, 4))
    pixels = rows.astype(np.uint8)
    assert png.encode(pixels) == png.encode(pixels)
    assert len(png.encode(pixels)) <= len(images.encode(pixels, "png"))
