"""From the floats of a language model to integers: the same predictions, nearly."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the llm extra is not installed")
import torch
from llm_networks import write_weights

from fine_tune.datasets.manifest import TrainingVolume
from fine_tune.datasets.patches import PatchSource, collate
from fine_tune.llm_exact_export import _exact_outputs, compared, exported
from medzip.entropy_model.llm.load import load_network
from medzip.entropy_model.llm.neighbourhood import describe
from medzip.entropy_model.llm.network import NeighbourNetwork
from medzip.entropy_model.llm.offsets import NEIGHBOURS
from medzip.entropy_model.llm_exact.features import look

PATCH = 4


def volume() -> TrainingVolume:
    generator = np.random.default_rng(3)
    steps = generator.normal(0, 20, (6, 40, 40)).cumsum(axis=1).cumsum(axis=2)
    return TrainingVolume({}, (steps - steps.min()).astype(np.int32))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> NeighbourNetwork:
    found = load_network(write_weights(tmp_path_factory.mktemp("weights"), "llm", patch=PATCH))
    assert isinstance(found, NeighbourNetwork)
    return found


def test_integer_features_are_those_of_the_float_model_rounded() -> None:
    [(near, _, _, top, channel)] = PatchSource([volume()], PATCH, seed=0).parts(1)
    seen = look(near.astype(np.int64), channel.astype(np.int64), int(top[0]))
    floats = [torch.from_numpy(part).float() for part in (near, channel, top)]
    prediction, scale, features = describe(*floats)
    np.testing.assert_array_equal(seen.predicted, prediction.numpy())
    np.testing.assert_array_equal(2.0**seen.exponent, scale.numpy())
    count = len(NEIGHBOURS)
    assert np.abs(seen.features[:, :count] / 16 - features[:, :count].numpy()).max() <= 1 / 16
    units, zeros = np.array([1 / 120, 1 / 16, 1 / 64, 1 / 64, 1 / 127, 1 / 64, 1 / 64]), np.array([0, -1, 0, 0, 0, 0, 0])
    assert np.abs(seen.features[:, count:] * units + zeros - features[:, count:].numpy()).max() <= 1 / 32


def test_the_exact_network_computes_what_the_float_network_computes(network: NeighbourNetwork) -> None:
    exact = exported(network, PatchSource([volume()], PATCH, seed=1))
    parts = PatchSource([volume()], PATCH, seed=2).parts(6)
    with torch.no_grad():
        logit, mean, deviation = (part.numpy() for part in network(collate(parts).features))
    outputs = np.stack([made for made, _ in _exact_outputs(exact, parts)], axis=1)
    units = (16 / np.log(2), 4096, 16)
    # Logits and deviations come in sixteenths of an octave, which is much of what random weights make of them.
    alike = (0.99, 0.999, 0.99)
    for found, expected, unit, least in zip(outputs, (logit, mean, deviation), units, alike, strict=True):
        assert np.abs(found / unit - expected).mean() < 0.02
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > least


def test_integers_cost_next_to_nothing(network: NeighbourNetwork) -> None:
    exact = exported(network, PatchSource([volume()], PATCH, seed=1))
    before, after = compared(network, exact, PatchSource([volume()], PATCH, seed=3), 6)
    assert before > 0 and abs(after / before - 1) < 0.005
