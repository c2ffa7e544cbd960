"""The distance of features from those of clean inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from goodnet.data.roles import CleanData
from goodnet.familiarity import FeatureDistance, distances_by_folds

Noise = Callable[..., CleanData]


def drawn(count: int, width: int, *, seed: int = 0) -> Tensor:
    """Features of unlike variances, some of which go together."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(9))
    return 5.0 + torch.randn(count, width, generator=generator) @ mixing


def by_the_book(fitted: Tensor, asked: Tensor) -> Tensor:
    """By the inverse of the whole shrunk covariance, in double precision."""
    features = fitted.double()
    covariance = torch.from_numpy(np.cov(features.numpy(), rowvar=False))
    covariance += 0.01 * covariance.diagonal().mean() * torch.eye(len(covariance))
    away = asked.double() - features.mean(0)
    squares = torch.einsum("ni,ij,nj->n", away, torch.linalg.inv(covariance), away)
    return (squares / away.shape[1]).sqrt()


@pytest.mark.parametrize(("count", "width"), [(200, 6), (7, 6), (5, 40), (2, 3)])
def test_it_is_the_mahalanobis_distance_by_a_shrunk_covariance(count: int, width: int) -> None:
    fitted, asked = drawn(count, width), drawn(50, width, seed=1)
    distance = FeatureDistance(fitted)
    for features in (fitted, asked):
        expected = by_the_book(fitted, features).float()
        assert torch.allclose(distance(features), expected, rtol=1e-3, atol=1e-3)


def test_further_clean_inputs_are_about_one_deviation_away() -> None:
    near = FeatureDistance(drawn(2000, 6))(drawn(2000, 6, seed=1))
    assert 0.9 < float(near.mean()) < 1.05
    assert float(near.max()) < 3.0


def test_what_no_clean_input_varied_in_is_far() -> None:
    fitted = drawn(100, 6)
    fitted[:, 2] = 0.0
    odd = fitted[:10].clone()
    odd[:, 2] = fitted.std(0).mean()
    distance = FeatureDistance(fitted)
    assert float(distance(odd).min()) > float(distance(fitted).max())


def test_features_that_never_vary_have_a_distance_too() -> None:
    distance = FeatureDistance(torch.ones(4, 3))
    assert distance(torch.ones(2, 3)).tolist() == [0.0, 0.0]
    assert (distance(torch.zeros(2, 3)) > 1e3).all()


def test_by_folds_no_input_is_measured_by_a_fit_to_itself(noise: Noise) -> None:
    clean = noise((3, 2, 2), 40)
    features = drawn(40, 30)
    by_folds = distances_by_folds(features, clean)
    assert by_folds is not None
    # Of forty inputs a fit of thirty directions knows those it has seen far better.
    assert (by_folds > FeatureDistance(features)(features)).all()
    for place in (0, 13, 39):
        others = torch.arange(40) % 8 != place % 8
        expected = FeatureDistance(features[others])(features[place : place + 1])
        assert torch.allclose(by_folds[place], expected)


def test_a_group_is_not_measured_by_a_fit_to_its_own(noise: Noise) -> None:
    clean = noise((3, 2, 2), 40)
    features = drawn(40, 6)
    features[[3, 20, 21]] += 40.0
    apart = distances_by_folds(features, clean)
    groups = torch.arange(40)
    groups[[3, 20, 21]] = 3
    grouped = CleanData(replace(clean.images, groups=groups), clean.specification)
    together = distances_by_folds(features, grouped)
    assert apart is not None
    assert together is not None
    assert (together[[3, 20, 21]] > 2 * apart[[3, 20, 21]]).all()


@pytest.mark.parametrize(("count", "groups"), [(1, [0]), (3, [0, 0, 0]), (3, [0, 0, 1])])
def test_too_few_tell_nothing(noise: Noise, count: int, groups: list[int]) -> None:
    clean = noise((3, 2, 2), count)
    clean = CleanData(replace(clean.images, groups=torch.tensor(groups)), clean.specification)
    assert distances_by_folds(drawn(count, 3), clean) is None
