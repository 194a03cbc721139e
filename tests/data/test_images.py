"""What is read of a single image file, by type, mode and what it hides."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vdu_jax.data.images import SUFFIXES, decode_image, read_all
from vdu_jax.errors import UserError

SIDE = 16
RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def decode(data, channels=3, **options):
    return decode_image(data, "x.png", channels, SIDE, **options)


def halves(left, right, mode="RGBA"):
    """The left half of one colour, the right of another."""
    image = Image.new(mode, (SIDE, SIDE), right)
    image.paste(left, (0, 0, SIDE // 2, SIDE))
    return image


def cut_out():
    """Red that is hidden, beside blue that is seen."""
    return halves((*RED, 0), (*BLUE, 255))


def grey_cut_out(mode="LA"):
    return halves((90, 0), (200, 255), "LA").convert(mode)


def chunked_png(depth, colour_type, row, key):
    """A PNG of `SIDE` equal rows with a transparent colour, at any depth."""

    def chunk(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour_type, 0, 0, 0)
    rows = zlib.compress((b"\0" + row) * SIDE)
    parts = (b"IHDR", header), (b"tRNS", key), (b"IDAT", rows), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def palette():
    image = halves(0, 1, "P")
    image.putpalette([*RED, *BLUE])
    return image


def animated(kind, image, **options):
    return encoded(image, kind, save_all=True, append_images=[Image.new("RGB", image.size)])


COLOUR = {
    "png RGBA": lambda: encoded(cut_out(), "PNG"),
    "png P, alpha of each entry": lambda: encoded(palette(), "PNG", transparency=b"\0\xff"),
    "png P, one entry": lambda: encoded(palette(), "PNG", transparency=0),
    "png RGB, a colour": lambda: encoded(halves(RED, BLUE, "RGB"), "PNG", transparency=RED),
    "gif": lambda: encoded(palette(), "GIF", transparency=0),
    "webp": lambda: encoded(cut_out(), "WEBP", lossless=True, exact=True),
    "tiff RGBA": lambda: encoded(cut_out(), "TIFF"),
    "xpm": lambda: (
        b"/* XPM */\nstatic char *x[] = {\n"
        + b",\n".join(
            b'"%s"' % row
            for row in [b"16 16 2 1", b"a c None", b"b c #0000FF", *[b"a" * 8 + b"b" * 8] * 16]
        )
        + b"\n};\n"
    ),
    "tga": lambda: encoded(cut_out(), "TGA"),
    "ico": lambda: encoded(cut_out(), "ICO", sizes=[(SIDE, SIDE)]),
    "bmp": lambda: encoded(cut_out(), "BMP"),
    "sgi": lambda: encoded(cut_out(), "SGI"),
    "dds": lambda: encoded(cut_out(), "DDS"),
    "jpeg 2000": lambda: encoded(cut_out(), "JPEG2000"),
    "qoi": lambda: encoded(cut_out(), "QOI"),
}
GREY = {
    "png LA": lambda: encoded(grey_cut_out(), "PNG"),
    "tiff LA": lambda: encoded(grey_cut_out(), "TIFF"),
    "png L, a level": lambda: encoded(halves(90, 200, "L"), "PNG", transparency=90),
    "png 1 bit": lambda: chunked_png(1, 0, b"\x00\xff", b"\0\0"),
    "png 2 bits": lambda: chunked_png(2, 0, b"\x55\x55\xff\xff", b"\0\x01"),
    "png 4 bits": lambda: chunked_png(4, 0, b"\x77" * 4 + b"\xff" * 4, b"\0\x07"),
}


@pytest.mark.parametrize("name", COLOUR | GREY)
def test_transparent_pixels_are_refused_or_put_on_a_background(name):
    data = (COLOUR | GREY)[name]()
    with pytest.raises(UserError, match=r"x\.png has transparent pixels.*data\.background"):
        decode(data)
    for background, level in (("white", 255), ("black", 0)):
        image = decode(data, background=background)
        assert (image[:, : SIDE // 2] == level).all()
        right = image[:, SIDE // 2 :]
        assert (right == (BLUE if name in COLOUR else right[0, 0, 0])).all() and right.any()
        grey = decode(data, channels=1, background=background)
        assert (grey[:, : SIDE // 2] == level).all()


def test_half_transparent_pixels_are_mixed_with_the_background():
    data = encoded(Image.new("RGBA", (SIDE, SIDE), (*RED, 51)), "PNG")
    with pytest.raises(UserError, match="transparent pixels"):
        decode(data)
    np.testing.assert_array_equal(decode(data, background="white")[0, 0], (255, 204, 204))
    np.testing.assert_array_equal(decode(data, background="black")[0, 0], (51, 0, 0))
    # One pixel, nearly opaque, outside the central square.
    wide = Image.new("RGBA", (3 * SIDE, SIDE), (*BLUE, 255))
    wide.putpixel((0, 0), (*RED, 254))
    with pytest.raises(UserError, match="transparent pixels"):
        decode(encoded(wide, "PNG"))


def test_a_background_goes_under_before_the_image_is_made_smaller():
    """A hidden colour does not shine through at the edges."""
    large = cut_out().resize((4 * SIDE, 4 * SIDE), Image.Resampling.NEAREST)
    image = decode(encoded(large, "PNG"), background="black")
    assert (image[..., 0] == 0).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_every_mode_with_alpha_is_flattened(mode):
    from vdu_jax.data import images

    source = cut_out().convert("LA" if mode in ("LA", "La") else "RGBA")
    if mode == "PA":
        source = Image.merge("RGBA", source.split()).convert("RGB").quantize(4).convert("PA")
        source.putalpha(cut_out().getchannel("A"))
    image = source if source.mode == mode else source.convert(mode)
    assert image.mode == mode
    with pytest.raises(UserError, match="transparent pixels"):
        images._flatten(image, b"", "x", "")
    flat = np.asarray(images._flatten(image, b"", "x", "white").convert("RGB"))
    assert (flat[:, : SIDE // 2] == 255).all() and not (flat[:, SIDE // 2 :] == 255).all(-1).any()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "1", "CMYK>RGB"])
def test_opaque_images_need_no_background(mode):
    picture = Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE))
    image = picture.convert(mode.split(">")[-1])
    data = encoded(image, "PNG")
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)
    np.testing.assert_array_equal(decode(data, background="white"), expected)
    # A transparent entry or colour that no pixel has hides nothing.
    if mode in ("P", "L"):
        unused = Image.new(mode, (SIDE, SIDE), 7)
        assert decode(encoded(unused, "PNG", transparency=9)).shape == (SIDE, SIDE, 3)


def test_sixteen_bits_and_a_transparent_colour():
    """Of 16 bits the high byte is read, so the colour can be told from no other near it."""
    pixel = struct.pack(">HHH", 0xFF12, 0x0012, 0x0012)
    row, other = pixel * SIDE, struct.pack(">HHH", 0x1212, 0, 0)
    with pytest.raises(UserError, match="16 bits per channel and a transparent colour"):
        decode(chunked_png(16, 2, row, pixel), background="white")
    np.testing.assert_array_equal(decode(chunked_png(16, 2, row, other))[0, 0], RED)


@pytest.mark.parametrize(
    ("mode", "kind"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF")]
)
def test_more_than_eight_bits_are_refused(mode, kind):
    image = Image.fromarray(np.full((SIDE, SIDE), 40000, np.uint16))
    image = (
        image if mode == "I;16" else Image.fromarray(np.asarray(image).astype(mode.lower() + "4"))
    )
    with pytest.raises(UserError, match=r"x\.png has more than 8 bits per channel; convert it"):
        decode(encoded(image, kind))


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("LAB", "TIFF")])
def test_colours_of_print_are_refused(mode, kind):
    data = encoded(Image.new(mode, (SIDE, SIDE)), kind)
    with pytest.raises(UserError, match=f"colour mode {mode}; convert it to RGB"):
        decode(data)


@pytest.mark.parametrize("image", [cut_out(), grey_cut_out()], ids=["RGB", "L"])
def test_a_channel_that_may_be_anything_is_refused(image):
    alpha, anything = (struct.pack("<HHIHH", 338, 3, 1, value, 0) for value in (2, 0))
    data = encoded(image, "TIFF").replace(alpha, anything)
    with pytest.raises(UserError, match="may or may not be transparency"):
        decode(data, background="white")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_animations_and_several_pages_are_refused(kind):
    image = Image.new("RGB", (SIDE, SIDE), RED)
    with pytest.raises(UserError, match="holds 2 frames"):
        decode(animated(kind, image), background="white")
    assert decode(encoded(image, kind)).shape == (SIDE, SIDE, 3)


def test_the_first_picture_of_a_phone_s_file_is_the_image():
    """MPO: a JPEG with a second one behind it, a preview or the other eye's view."""
    image = Image.new("RGB", (SIDE, SIDE), RED)
    data = animated("MPO", image)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert np.abs(decode(data)[0, 0].astype(int) - RED).max() < 5


@pytest.mark.parametrize("background", ["", "white"])
def test_a_camera_s_turn_is_undone(background):
    image = halves((*RED, 255), (*BLUE, 255 if not background else 254))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter
    out = decode(encoded(image, "PNG", exif=exif), background=background)
    assert (out[: SIDE // 2, :, 0] == 255).all() and (out[SIDE // 2 :, :, 2] >= 254).all()


KINDS = {"PNG": "RGB", "JPEG": "RGB", "GIF": "L", "WEBP": "RGB", "TIFF": "RGB", "BMP": "RGB",
         "PPM": "RGB", "TGA": "RGB", "JPEG2000": "RGB", "AVIF": "RGB", "ICO": "RGBA",
         "QOI": "RGB", "PCX": "RGB", "SGI": "RGB", "DDS": "RGB", "ICNS": "RGBA"}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_one_line_or_an_image(kind):
    """Cut short or with bytes changed, at many places."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise).convert(KINDS[kind]), kind)
    assert decode(whole).shape == (SIDE, SIDE, 3)
    with pytest.raises(UserError, match="replace or remove it"):
        decode(whole[: len(whole) // 2])
    random = np.random.default_rng(1)
    for _ in range(150):
        data = bytearray(whole)
        for place in random.integers(len(data), size=4):
            data[place] = random.integers(256)
        data = data[: random.integers(1, len(data) + 1)] if random.random() < 0.5 else data
        try:
            image = decode(bytes(data), background="white")
        except UserError as error:
            assert "x.png" in str(error) and "\n" not in str(error)
        else:
            assert image.shape == (SIDE, SIDE, 3) and image.dtype == np.uint8


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89HDF\r\n\x1a\n"]
)
def test_what_is_no_image_is_refused(data):
    with pytest.raises(UserError, match=r"x\.png is not a readable image .*replace or remove it"):
        decode(data)


def test_the_types_that_are_read():
    assert {".jpg", ".jfif", ".png", ".tif", ".gif", ".webp", ".bmp", ".mpo", ".avif"} <= SUFFIXES
    assert not {".eps", ".pdf", ".h5", ".mpg", ".svg", ".txt"} & SUFFIXES


def test_one_line_tells_how_many_images_are_refused():
    def read(item):
        if item % 3 == 2:
            raise UserError(f"{item} is bad")
        return item

    assert list(read_all([0, 1, 3], read)) == [0, 1, 3]
    got = []
    with pytest.raises(UserError, match=r"^2 is bad \(of the 7 images after it 2 are refused, too"):
        got += read_all(range(10), read)
    with pytest.raises(UserError, match=r"^2 is bad$"):
        list(read_all([2, 3], read))
