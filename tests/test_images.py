"""Decoding strangers' pictures, making them square, writing them, and contact sheets."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from t2i_cli import headers, images
from t2i_cli.errors import DataError
from tests.fuzz.mutate import mutated

RNG = np.random.default_rng(0)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def gradient(width: int = 40, height: int = 30, channels: int = 3) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = [
        x * 255 // max(width - 1, 1),
        y * 255 // max(height - 1, 1),
        (x + y) * 3 % 256,
        255 - x,
    ]
    return np.stack(planes[:channels], -1).astype(np.uint8)


def png_of_zeros(width: int, height: int) -> bytes:
    """A small file that decodes to width x height grey pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    line = bytes(width // 8 + 1)
    body = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


class TestDecode:
    @pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG", "AVIF"])
    def test_every_format(self, format):
        if format == "AVIF" and not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
        pixels = np.full((20, 30, 3), (200, 40, 90), np.uint8)
        options = {"lossless": True} if format == "WEBP" else {}
        got = images.decode(saved(Image.fromarray(pixels), format, **options), name="x")
        assert got.shape == (20, 30, 3)
        assert got.dtype == np.uint8
        assert np.abs(got.astype(int) - pixels).max() <= (4 if format in ("JPEG", "AVIF") else 0)

    @pytest.mark.parametrize("format", ["PPM", "ICO", "TGA", "PCX"])
    def test_other_formats_are_refused(self, format):
        with pytest.raises(DataError, match=r"x: not a PNG"):
            images.decode(saved(Image.new("RGB", (8, 8)), format), name="x")

    def test_alpha_is_kept_straight(self):
        pixels = gradient(9, 7, 4)
        assert (images.decode(saved(Image.fromarray(pixels), "PNG"), name="x") == pixels).all()

    def test_first_frame_of_a_gif(self):
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert images.decode(data, name="x")[0, 0].tolist() == [255, 0, 0]

    def test_sixteen_bit_grey_keeps_its_range(self):
        grey = np.array([[0, 257 * 100, 65535]], np.uint16)
        got = images.decode(saved(Image.fromarray(grey), "PNG"), name="x")
        assert got[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]

    def test_palette_with_transparency(self):
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.putpixel((1, 0), 1)
        got = images.decode(saved(image, "PNG", transparency=0), name="x")
        assert got.shape == (1, 2, 4)
        assert got[0, 0, 3] == 0
        assert got[0, 1].tolist() == [0, 0, 255, 255]

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
    def test_modes(self, mode):
        data = saved(
            Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode),
            "JPEG" if mode in ("CMYK", "YCbCr") else "PNG",
        )
        got = images.decode(data, name="x")
        assert got.shape == (4, 6, 4 if mode == "LA" else 3)
        assert (got >= 254).all()

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    def test_exif_orientation(self, orientation, format):
        # what a camera stores so that a viewer who obeys the tag sees red in the top left corner
        upright = np.full((32, 48, 3), 255, np.uint8)
        upright[:16, :24] = (255, 0, 0)
        inverse = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
        stored = Image.fromarray(upright)
        if orientation > 1:
            stored = stored.transpose(images._TRANSPOSE[inverse[orientation]])
        exif = Image.Exif()
        exif[0x0112] = orientation
        got = images.decode(saved(stored, format, exif=exif.tobytes()), name="x")
        assert got.shape == (32, 48, 3)
        assert got[4, 4, 0] > 200
        assert got[4, 4, 1] < 60
        assert (got[24:, 30:] > 200).all()

    @pytest.mark.parametrize(
        "exif",
        [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0" + b"\xff" * 40],
    )
    def test_bad_exif_does_not_cost_the_picture(self, exif):
        data = saved(Image.fromarray(gradient()), "JPEG", exif=exif)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert images.decode(data, name="x").shape == (30, 40, 3)

    def test_a_large_jpeg_is_reduced_while_decoding(self):
        data = saved(Image.fromarray(gradient(1600, 1200)), "JPEG")
        assert images.decode(data, name="x", at_least=64).shape == (150, 200, 3)
        assert images.decode(data, name="x").shape == (1200, 1600, 3)


class TestStrangers:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 40,
            b"<svg/>",
        ],
    )
    def test_not_pictures(self, data):
        with pytest.raises(DataError, match=r"^x: "):
            images.decode(data, name="x")

    @pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
    def test_truncated_anywhere(self, format):
        data = saved(Image.fromarray(gradient()), format)
        refused = 0
        for length in range(0, len(data), max(1, len(data) // 60)):
            try:
                pixels = images.decode(data[:length], name="x")
            except DataError:
                refused += 1
            else:  # nothing but a trailer was lost
                assert pixels.shape == (30, 40, 3)
        assert refused > 50

    def test_a_broken_tiff_writes_nothing_to_stderr_by_itself(self, capfd):
        whole = saved(Image.fromarray(gradient(31, 24, 4)), "TIFF", compression="tiff_lzw")
        chance = random.Random(5)
        refused = 0
        for _ in range(300):
            try:
                images.decode(mutated(whole, chance), name="x")
            except DataError:
                refused += 1
        assert refused > 50
        assert capfd.readouterr().err == ""

    def test_a_bomb_is_refused_before_it_is_decoded(self):
        data = png_of_zeros(9000, 9000)
        assert len(data) < 15_000
        script = (
            "import resource, sys; from t2i_cli import images, errors\n"
            "data = sys.stdin.buffer.read(); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "try: images.decode(data, name='bomb.png')\n"
            "except errors.DataError as error: print(error)\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            input=data,
            capture_output=True,
            check=True,
        )
        message, grown = done.stdout.decode().splitlines()
        assert message == "bomb.png: 9000 x 9000 px is more than the 50 megapixels that are read"
        assert int(grown) < 20  # MB

    def test_the_cap_is_on_the_area(self):
        assert images.decode(png_of_zeros(50_000, 100), name="x").shape == (100, 50_000, 3)
        with pytest.raises(DataError, match="megapixels"):
            images.decode(png_of_zeros(50_001, 1000), name="x")

    def test_webp_canvas_is_measured_before_pillow_makes_room(self):
        canvas = (16383).to_bytes(3, "little") * 2
        data = (
            b"RIFF"
            + (30).to_bytes(4, "little")
            + b"WEBPVP8X"
            + (10).to_bytes(4, "little")
            + b"\x10\0\0\0"
            + canvas
        )
        with pytest.raises(DataError, match="16384 x 16384 px is more"):
            images.decode(data, name="x")

    @pytest.mark.parametrize(
        "options", [{"lossless": True}, {"quality": 50}, {"lossless": True, "exif": b"Exif\0\0MM"}]
    )
    def test_webp_header_agrees_with_pillow(self, options):
        data = saved(Image.fromarray(gradient(37, 21, 4)), "WEBP", **options)
        assert headers.webp_size(data) == (37, 21)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF"]), st.data())
    def test_flipped_bytes_only_ever_raise_data_error(self, format, choose):
        data = bytearray(saved(Image.fromarray(gradient(16, 12, 3)), format))
        for _ in range(choose.draw(st.integers(1, 6))):
            data[choose.draw(st.integers(0, len(data) - 1))] = choose.draw(st.integers(0, 255))
        try:
            pixels = images.decode(bytes(data), name="x")
        except DataError:
            return
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] in (3, 4)

    def test_an_error_prints_no_control_byte(self):
        with pytest.raises(DataError) as caught:
            images.decode(b"no", name="a\x1b[31m.png")
        assert "\x1b" not in str(caught.value)

    def test_decoders_warn_of_nothing_in_any_thread(self):
        data = saved(Image.fromarray(gradient()), "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 40)
        failures: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(30):
                    images.decode(data, name="x")
            except BaseException as error:
                failures.append(error)

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            before = list(warnings.filters)
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert warnings.filters == before
        assert not failures


def display_p3() -> bytes:
    """An ICC profile with the primaries of Display P3 and a plain gamma, written by hand."""

    def s15(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(s15, values))

    text = "wide".encode("utf-16-be")
    tags = {
        b"desc": b"mluc\0\0\0\0"
        + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28)
        + text,
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.5151, 0.2412, -0.0011),
        b"gXYZ": xyz(0.2920, 0.6922, 0.0419),
        b"bXYZ": xyz(0.1571, 0.0666, 0.7841),
        **{
            name: b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
            for name in (b"rTRC", b"gTRC", b"bTRC")
        },
    }
    table, body, offset = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content
    size = offset + len(body)
    head = struct.pack(">I", size) + b"lcms" + b"\x04\x30\0\0" + b"mntrRGB XYZ "
    head += bytes(12) + b"acsp" + bytes(28) + s15(0.9642) + s15(1.0) + s15(0.8249) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


class TestColours:
    @pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
    def test_wide_gamut_is_converted_to_srgb(self, format):
        options = {"lossless": True} if format == "WEBP" else {}
        options |= {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
        flat = Image.new("RGB", (16, 16), (120, 200, 80))
        got = images.decode(saved(flat, format, icc_profile=display_p3(), **options), name="x")
        # Display P3 -> XYZ -> sRGB by their matrices, both with gamma 2.2 to about a level
        p3 = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
        linear = np.clip(p3 @ (np.array([120, 200, 80]) / 255) ** 2.2, 0, 1)
        assert np.abs(got[8, 8] - 255 * linear ** (1 / 2.2)).max() < 7
        assert got[8, 8, 0] < 110  # 120 as it was written

    def test_alpha_is_kept(self):
        pixels = np.full((8, 8, 4), (120, 200, 80, 99), np.uint8)
        data = saved(Image.fromarray(pixels), "PNG", icc_profile=display_p3())
        got = images.decode(data, name="x")
        assert (got[..., 3] == 99).all()
        assert (got[..., 0] < 110).all()

    @pytest.mark.parametrize("profile", [b"junk", display_p3()[:200], b""])
    def test_a_broken_profile_does_not_cost_the_picture(self, profile):
        pixels = gradient()
        data = saved(Image.fromarray(pixels), "PNG", icc_profile=profile)
        assert (images.decode(data, name="x") == pixels).all()

    def test_srgb_stays_as_it_is(self):
        from PIL import ImageCms

        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        data = saved(Image.fromarray(gradient()), "PNG", icc_profile=profile)
        assert (images.decode(data, name="x") == gradient()).all()


class TestBesideThePicture:
    def chunk(self, kind: bytes, content: bytes) -> bytes:
        told = struct.pack(">I", len(content)) + kind + content
        return told + struct.pack(">I", zlib.crc32(kind + content))

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt", b"iCCP"])
    def test_large_chunks_do_not_cost_the_picture(self, kind, after):
        large = {
            b"zTXt": b"workflow\0\0" + zlib.compress(b"x" * 3_000_000),
            b"iTXt": b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000),
            b"tEXt": b"workflow\0" + b"x" * 3_000_000,
            b"iCCP": b"profile\0\0" + zlib.compress(bytes(3_000_000)),
        }[kind]
        data = saved(Image.fromarray(gradient()), "PNG")
        at = data.index(b"IEND") - 4 if after else 33
        data = data[:at] + self.chunk(kind, large) + data[at:]
        assert (images.decode(data, name="x") == gradient()).all()

    @pytest.mark.parametrize(("suffix", "module"), [("HEIF", "pillow_heif"), ("JXL", "pillow_jxl")])
    def test_formats_of_extras(self, suffix, module):
        plugin = pytest.importorskip(module)
        if suffix == "HEIF":
            plugin.register_heif_opener()
        pixels = np.full((40, 56, 3), (200, 90, 30), np.uint8)
        data = saved(Image.fromarray(pixels), suffix, quality=95)
        got = images.decode(data, name="x")
        assert got.shape == (40, 56, 3)
        assert np.abs(got.astype(int) - pixels).max() < 12
        assert headers.jxl_size(data) == ((56, 40) if suffix == "JXL" else (0, 0))

    @pytest.mark.parametrize(
        ("head", "option"),
        [(b"\0\0\0\x18ftypheic\0\0\0\0", "heif"), (b"\xff\x0a" + bytes(30), "jxl")],
    )
    def test_without_the_extra_the_message_says_what_to_install(self, head, option, monkeypatch):
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        monkeypatch.setitem(sys.modules, "pillow_jxl", None)
        with pytest.raises(DataError, match=rf"pip install 't2i-cli\[{option}\]'"):
            images.decode(head, name="x")


class TestFit:
    def test_padding_keeps_the_whole_picture(self):
        got = images.fit(np.full((20, 40, 3), 200, np.uint8), 16, "pad")
        assert got.shape == (16, 16, 4)
        assert (got[..., 3] == 255).all()  # an opaque picture stays so
        assert (got[4:12, :, :3] == 200).all()
        assert (got[:4] == 255).all()
        assert (got[12:] == 255).all()
        clear = np.full((20, 40, 4), 200, np.uint8)
        got = images.fit(clear, 16, "pad")
        assert (got[4:12, :, 3] == 200).all()
        assert (got[:4] == 0).all()
        assert (got[12:] == 0).all()

    def test_cropping_is_centred_on_what_the_picture_shows(self):
        for left in (0, 30, 60, 100):
            pixels = np.full((40, 140, 3), 90, np.uint8)
            pixels[8:32, left + 8 : left + 32] = RNG.integers(0, 256, (24, 24, 3), np.uint8)
            got = images.fit(pixels, 40, "crop")
            assert (got[..., 3] == 255).all()
            inside = (got[8:32, :, :3] != 90).any(-1).any(0)
            assert inside.sum() >= 22  # the whole of it is in the square
            alpha = np.zeros((140, 40, 4), np.uint8)
            alpha[left + 8 : left + 32, 8:32] = 255
            assert (images.fit(alpha, 40, "crop")[..., 3] > 0).sum() == 24 * 24

    def test_stretching_shows_all_of_it(self):
        pixels = gradient(64, 16)
        got = images.fit(pixels, 16, "stretch")
        assert got.shape == (16, 16, 4)
        assert abs(int(got[0, 0, 0]) - 6) < 6
        assert abs(int(got[0, 15, 0]) - 249) < 6

    def test_by_default_opaque_pictures_are_cropped_and_others_padded(self):
        opaque = gradient(64, 16, 3)
        assert (images.fit(opaque, 16) == images.fit(opaque, 16, "crop")).all()
        clear = np.dstack([opaque, np.full((16, 64), 200, np.uint8)])
        assert (images.fit(clear, 16) == images.fit(clear, 16, "pad")).all()
        assert images.fitted(3, 3, True, "pad") is None
        assert [images.fitted(3, 4, one, None) for one in (True, False)] == ["crop", "pad"]

    def test_the_same_size_is_the_same_picture(self):
        pixels = gradient(32, 32, 4)
        pixels[..., 3] |= 1
        assert (images.fit(pixels, 32) == pixels).all()

    def test_colours_under_transparency_never_bleed(self):
        # red on the left; on the right, green that nobody can see
        pixels = np.zeros((64, 64, 4), np.uint8)
        pixels[:, :29] = (255, 0, 0, 255)
        pixels[:, 29:] = (0, 255, 0, 0)
        got = images.fit(pixels, 16)
        seen = got[got[..., 3] > 8]
        assert (seen[:, 0] >= 250).all()
        assert (seen[:, 1] <= 5).all()

    def test_reduction_keeps_the_mean(self):
        pixels = RNG.integers(0, 256, (256, 256, 3), np.uint8)
        got = images.fit(pixels, 32)[..., :3]
        assert abs(got.mean() - pixels.mean()) < 1
        assert got.std() < 25  # of white noise, 74: it is averaged, not sampled

    def test_pixel_art_is_enlarged_by_repeating(self):
        pixels = np.zeros((16, 16, 4), np.uint8)
        pixels[::2, ::2] = (255, 0, 0, 255)
        assert (images.fit(pixels, 64) == pixels.repeat(4, 0).repeat(4, 1)).all()

    def test_a_small_photograph_is_enlarged_smoothly(self):
        pixels = RNG.integers(0, 256, (16, 16, 3), np.uint8)
        assert len(np.unique(images.fit(pixels, 64).reshape(-1, 4), axis=0)) > 1000

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(1, 90),
        st.integers(1, 90),
        st.sampled_from([3, 4]),
        st.sampled_from([8, 32, 64]),
    )
    def test_any_shape(self, width, height, channels, resolution):
        got = images.fit(gradient(width, height, channels), resolution)
        assert got.shape == (resolution, resolution, 4)
        assert got.flags["C_CONTIGUOUS"]

    def test_read_picture_says_what_it_was(self):
        picture = images.read_picture(
            saved(Image.new("LA", (50, 30), (9, 128)), "PNG"), name="x", resolution=16
        )
        assert (picture.width, picture.height, picture.has_alpha) == (50, 30, True)
        opaque = images.read_picture(
            saved(Image.new("RGBA", (5, 3), (9, 9, 9, 255)), "PNG"), name="x", resolution=16
        )
        assert not opaque.has_alpha

    def test_flatten_matches_the_formula(self):
        pixels = RNG.integers(0, 256, (50, 50, 4), np.uint8)
        alpha = pixels[..., 3:] / 255
        exact = pixels[..., :3] * alpha + np.array([10, 200, 255]) * (1 - alpha)
        assert np.abs(images.flatten(pixels, (10, 200, 255)) - exact).max() <= 0.5 + 1e-9


class TestEncode:
    @pytest.mark.parametrize("format", ["png", "webp"])
    @pytest.mark.parametrize("channels", [3, 4])
    def test_lossless_round_trip(self, format, channels):
        pixels = gradient(33, 17, channels)
        if channels == 4:
            pixels[..., 3] |= 1
        assert (images.decode(images.encode(pixels, format), name="x") == pixels).all()

    def test_jpg_is_flattened(self):
        got = images.decode(
            images.encode(np.zeros((8, 8, 4), np.uint8), "jpg", background=(0, 0, 255)), name="x"
        )
        assert got.shape == (8, 8, 3)
        assert got[0, 0, 2] > 250

    @pytest.mark.parametrize("format", ["png", "webp", "jpg"])
    def test_text_and_xmp_come_back(self, format):
        text = {
            "parameters": "a red cat, тест 猫\nSteps: 1, Seed: 3",
            "t2i": '{"prompt": "a red cat"}',
        }
        data = images.encode(gradient(), format, text=text, xmp="<x:xmpmeta/>")
        got = images.read_text(data, name="x")
        assert (got.format, got.width, got.height) == (format, 40, 30)
        assert got.text == text
        assert got.xmp == "<x:xmpmeta/>"

    def test_without_text_there_is_none(self):
        assert images.read_text(images.encode(gradient()), name="x").text == {}

    def test_what_a_jpeg_has_no_room_for_is_left_out(self):
        pixels = np.zeros((8, 8, 3), np.uint8)
        for text, kept in (
            ({"t2i": "a" * 40_000, "parameters": "b" * 40_000}, {"t2i"}),
            ({"t2i": "a" * 70_000}, set()),
        ):
            found = images.read_text(images.encode(pixels, "jpg", text=text), name="x").text
            assert set(found) == kept

    def test_lone_surrogates_do_not_stop_a_save(self):
        data = images.encode(gradient(), text={"parameters": "a \ud800 cat"})
        assert images.read_text(data, name="x").text == {"parameters": "a ? cat"}

    def test_the_same_bytes_every_time(self):
        assert images.encode(gradient(), text={"a": "b"}) == images.encode(
            gradient(), text={"a": "b"}
        )


class TestGrid:
    def test_layout(self):
        pixels = np.zeros((5, 64, 64, 4), np.uint8)
        pixels[:, :, :, 0] = pixels[:, :, :, 3] = 255
        sheet = images.grid(pixels, columns=3)
        assert sheet.shape == (8 + 2 * (128 + 8), 8 + 3 * (128 + 8), 3)
        assert sheet[8, 8].tolist() == [255, 0, 0]
        assert sheet[-20, -20].tolist() == [255, 255, 255]  # the sixth place is empty

    def test_captions_are_drawn_under_their_picture_and_stay_there(self):
        pixels = np.full((2, 64, 64, 3), 255, np.uint8)
        sheet = images.grid(pixels, ["a red cat " * 30, ""], columns=2)
        ink = (sheet < 128).any(-1)
        assert ink[8 + 128 :, 8 : 8 + 128].sum() > 100
        assert not ink[: 8 + 128].any()
        assert not ink[:, 8 + 128 + 4 :].any()

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.text(max_size=80), min_size=1, max_size=4))
    def test_any_caption(self, captions):
        images.grid(np.zeros((len(captions), 8, 8, 4), np.uint8), captions)
