"""Entropy models by name: a new model is one new file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from medzip.entropy_model.contract import EntropyModel
from medzip.errors import ModelMissingError
from medzip.weights import registry as weights_registry


def _parametric(_digest: str | None) -> EntropyModel:
    from medzip.entropy_model.parametric import Parametric

    return Parametric()


def _language_model(digest: str | None) -> EntropyModel:
    try:
        from medzip.entropy_model.llm.model import LanguageModel
    except ImportError as error:
        raise ModelMissingError(
            f"expected torch and transformers, found no module {error.name!r}; install them with pip install 'medzip[llm]'"
        ) from error
    return LanguageModel(weights_registry.by_digest(digest or ""))


def _pixel(digest: str | None) -> EntropyModel:
    from medzip.entropy_model.pixel.model import Pixel

    return Pixel(weights_registry.by_digest(digest or ""))


def _exact_language_model(digest: str | None) -> EntropyModel:
    from medzip.entropy_model.llm_exact.model import ExactLanguageModel

    return ExactLanguageModel(weights_registry.by_digest(digest or ""))


MODELS: dict[str, Callable[[str | None], EntropyModel]] = {
    "parametric": _parametric,
    "pixel": _pixel,
    "llm_exact": _exact_language_model,
    "llm": _language_model,
    "paper": _language_model,
}
WITHOUT_WEIGHTS = ("parametric",)


@cache
def entropy_model(name: str, digest: str | None) -> EntropyModel:
    """The model of this name with the weights of this SHA-256 (hex; None for a model without weights), loaded once.

    Raises ModelMissingError where the name, the weights or a library is not here.
    """
    if name not in MODELS:
        raise ModelMissingError(f"expected one of the models {', '.join(MODELS)}, found {name!r}; install a newer medzip")
    return MODELS[name](digest)


def kind_of(weights: str) -> str | None:
    """What kind the weights of this name are; None where there are none."""
    return next((entry.kind for entry in weights_registry.entries() if entry.name == weights), None)


def digests_for(name: str, kind: str, models: str, weights: str | None) -> tuple[str | None, ...]:
    """SHA-256 of the weights of a kind to encode with: of those called `weights`, else of all that `models`
    ('open', 'all') allows, research-only ones first."""
    if name in WITHOUT_WEIGHTS:
        return (None,)
    return tuple(chosen.sha256 for chosen in weights_registry.select(kind, models, weights))
