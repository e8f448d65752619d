"""Mask similarity and Jaccard index."""

import pytest
import torch

import fbconv


def masks(*bits):
    return {name: torch.tensor([c == "1" for c in text]) for name, text in zip("ab", bits, strict=False)}


@pytest.mark.parametrize(
    ("a", "b", "similarity", "jaccard"),
    [
        (masks("110", "01"), masks("100", "01"), 2 / 3, 2 / 3),
        (masks("1100"), masks("0110"), 1 / 2, 1 / 3),
        (masks("1111"), masks("0001"), 1 / 4, 1 / 4),
        (masks("10", "10"), masks("01", "01"), 0, 0),
        (masks("101"), masks("101"), 1, 1),
        (masks("000"), masks("000"), 1, 1),
        (masks("000"), masks("100"), 0, 0),
    ],
)
def test_by_hand(a, b, similarity, jaccard):
    for first, second in ((a, b), (b, a)):
        assert fbconv.mask_similarity(first, second) == similarity
        assert fbconv.jaccard(first, second) == jaccard


@pytest.mark.parametrize("function", [fbconv.mask_similarity, fbconv.jaccard])
def test_errors(function):
    with pytest.raises(ValueError, match=f"{function.__name__}: b must have a's 2 names, but 'b' is only in a"):
        function(masks("1", "1"), masks("1"))
    with pytest.raises(ValueError, match=r"b\['a'\] must have shape \(2,\), got \(3,\)"):
        function(masks("10"), masks("101"))
    with pytest.raises(ValueError, match=r"b\['a'\] must be bool, got torch.float32"):
        function(masks("10"), {"a": torch.ones(2)})
