"""tools/unmdz.py, written from FORMAT.md, section 26, reads what the exact language model writes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from llm_exact_networks import extreme_network, random_network, write_network
from pixel_networks import image

from medzip.coder.range_coder import Encoder
from medzip.entropy_model.contract import Chunk
from medzip.entropy_model.llm_exact.model import ExactLanguageModel

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import unmdz

NETWORKS = {"random": random_network, "extreme": extreme_network}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bits", [8, 32])
def test_the_second_decoder_agrees(tmp_path: Path, name: str, bits: int) -> None:
    weights = write_network(tmp_path / "network.safetensors", NETWORKS[name]())
    samples, coder = image(bits, (5, 7, 10)), Encoder()
    side = ExactLanguageModel(weights).encode(Chunk(samples.astype(np.uint32)), coder)
    header = {"side": side, "weights": bytes.fromhex(weights.sha256)}
    tables = unmdz.Tables(unmdz.TABLES)
    back = unmdz.exact_language_model(header, coder.finish(), samples.shape, np.dtype("<u4"), tables, tmp_path)
    np.testing.assert_array_equal(back, samples)


def test_a_header_that_asks_for_too_much_is_damage(tmp_path: Path) -> None:
    weights = write_network(tmp_path / "network.safetensors", random_network())
    header = {"side": {"low": 0, "high": 9, "together": 64}, "weights": bytes.fromhex(weights.sha256)}
    with pytest.raises(unmdz.DamagedError):
        unmdz.exact_language_model(header, bytes(8), (192, 400, 400), np.dtype("|u1"), unmdz.Tables(unmdz.TABLES), tmp_path)
