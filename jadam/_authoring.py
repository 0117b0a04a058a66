"""What a rule is written with. An optimizer's file imports from here and from `_assembly` alone."""

from __future__ import annotations

from jadam._annotations import Option as Option
from jadam._axes import Axes as Axes
from jadam._axes import from_matrices as from_matrices
from jadam._axes import sides as sides
from jadam._axes import to_matrices as to_matrices
from jadam._by_leaf import GivenByLeaf as GivenByLeaf
from jadam._chain import builder as builder
from jadam._derivatives import eigenvectors as eigenvectors
from jadam._derivatives import orthonormalized as orthonormalized
from jadam._derivatives import root as root
from jadam._dtypes import cast as cast
from jadam._errors import BadValue as BadValue
from jadam._hyper import Count as Count
from jadam._hyper import Decay as Decay
from jadam._hyper import FixedNonNegative as FixedNonNegative
from jadam._hyper import FixedPositive as FixedPositive
from jadam._hyper import Hyper as Hyper
from jadam._hyper import Negative as Negative
from jadam._hyper import NonNegative as NonNegative
from jadam._hyper import Positive as Positive
from jadam._masks import EVERYTHING as EVERYTHING
from jadam._masks import Mask as Mask
from jadam._masks import MaskLike as MaskLike
from jadam._matrices import ALL as ALL
from jadam._matrices import SURE as SURE
from jadam._matrices import WEIGHTS as WEIGHTS
from jadam._matrices import MatricesLike as MatricesLike
from jadam._matrices import SureLike as SureLike
from jadam._matrices import WeightsLike as WeightsLike
from jadam._matrices import as_matrices as as_matrices
from jadam._norm import norm as norm
from jadam._norm import scaled_norm as scaled_norm
from jadam._rule import Context as Context
from jadam._rule import DecayRate as DecayRate
from jadam._rule import Rule as Rule
from jadam._rule import Slots as Slots
from jadam._rule import zeros as zeros
from jadam._squares import bounded as bounded
from jadam._tree import PyTree as PyTree
