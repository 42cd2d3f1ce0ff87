"""JPEG with Huffman codes (ITU-T T.81, baseline to progressive, 8 bits) as JPEG XL that gives it back (ISO/IEC 18181-2).

How a decoder makes the JPEG file again is fixed by the standard: any of them gives the same bytes, of any version.
"""

from __future__ import annotations

from medzip.sources.encapsulated.contract import (
    Layout,
    NotReproducibleError,
    RecipeReader,
    RecipeWriter,
    Samples,
    damaged,
)
from medzip.sources.encapsulated.jpeg_markers import frame_size

LARGEST_STREAM = 1 << 27
SAMPLES_PER_BYTE = 512
"""Of a JPEG file, at most: of each block of 64 one bit at least is coded (T.81 annex F.1.2.1). libjxl believes what is said."""


class JpegXl:
    """Lossy streams: nothing of them is decoded, so there are no voxels."""

    name = "jpeg_xl"

    def decode(self, stream: bytes, layout: Layout) -> tuple[Samples | None, bytes]:  # noqa: ARG002  (the stream knows)
        import imagecodecs

        if frame_size(stream) > SAMPLES_PER_BYTE * len(stream):
            raise NotReproducibleError
        try:
            image = bytes(imagecodecs.jpegxl_encode_jpeg(stream, numthreads=1))
        except Exception as error:  # whatever libjxl does not take
            raise NotReproducibleError from error
        recipe = RecipeWriter()
        recipe.number(len(stream))
        recipe.block(image)
        return None, recipe.finish()

    def encode(self, samples: Samples | None, recipe: bytes) -> bytes:
        import imagecodecs

        reader = RecipeReader(recipe)
        size, image = reader.number(), reader.block()
        reader.end()
        if samples is not None or size > LARGEST_STREAM:
            raise damaged(f"no voxels and a JPEG file of at most {LARGEST_STREAM} bytes")
        try:
            # Given an output, imagecodecs allocates nothing for what the image may claim.
            stream = imagecodecs.jpegxl_decode_jpeg(image, numthreads=1, out=bytearray(size))
        except Exception as error:
            raise damaged("a JPEG XL image that holds a JPEG file") from error
        return bytes(stream)
