"""--regularizer: which term was asked for, and whether anything is trained that it could act on."""

from __future__ import annotations

from dataclasses import replace

from compress_export.errors import InputError, nearest
from compress_export.settings import ShareSettings, SourceSettings, TuneSettings
from compressor.regularizers import REGULARIZERS, Regularization
from compressor.sharing import Sharing

CENTROIDS = "4x256"
"""What the centroid term follows where no sharing is asked for."""


def regularization_of(settings: SourceSettings | TuneSettings) -> Regularization | None:
    """The regularizer that the settings name, with its weight. InputError for a name that there is none of."""
    if settings.regularizer is None:
        return None
    name, _, sharing = settings.regularizer.partition(":")
    if name not in REGULARIZERS:
        raise InputError(f"there is no regularizer {name!r}: {nearest(name, REGULARIZERS)}")
    if sharing and not REGULARIZERS[name].follows:
        raise InputError(f"--regularizer {settings.regularizer}: {name} follows no centroids; leave out :{sharing}")
    weight = settings.regularizer_weight or REGULARIZERS[name].weight
    return Regularization(name, weight, Sharing.parse(sharing or CENTROIDS))


def check_regularizer(source: SourceSettings, tune: TuneSettings) -> None:
    """InputError for a regularizer where nothing is trained, or a weight without one."""
    _ = regularization_of(tune)
    if tune.regularizer is None:
        if tune.regularizer_weight is not None:
            raise InputError("--regularizer-weight is the weight of a term that --regularizer names; pass both")
        return
    if source.data is None:
        raise InputError("--regularizer acts while a network trains, and without --data none does; pass --data")
    if source.regularizer is None and source.weights == "none":
        raise InputError("--regularizer acts while a network trains, and --weights none is not trained; pass --train")
    if source.regularizer is None and tune.epochs == 0:
        raise InputError("--regularizer acts while a network trains, and --epochs 0 trains none; pass 1 or more")


def with_centroids(tune: TuneSettings, share: ShareSettings) -> TuneSettings:
    """The settings with the centroid term following the centroids that will be shared, unless it names its own."""
    if tune.regularizer != "centroid" or share.share is None:
        return tune
    return replace(tune, regularizer=f"centroid:{share.share}")


def while_training(source: SourceSettings, tune: TuneSettings) -> SourceSettings:
    """The source with the term of the tuning, where the network is trained from scratch."""
    from compress_export.source import training_epochs  # it imports this module

    if training_epochs(source) is None:
        return source
    return replace(source, regularizer=tune.regularizer, regularizer_weight=tune.regularizer_weight)
