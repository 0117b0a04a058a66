"""What a ready-made optimizer is put together from. An optimizer's file imports from here and from `_authoring` alone."""

from __future__ import annotations

from jadam._chain import block as block
from jadam._chain import chain as chain
from jadam._chain import identity as identity
from jadam._clipping import clip_by_block_rms as clip_by_block_rms
from jadam._ema import ema as ema
from jadam._engine.lost import peak_of as peak_of
from jadam._groups import masked as masked
from jadam._groups import partition as partition
from jadam._learning_rate import Scale as Scale
from jadam._learning_rate import hold_first as hold_first
from jadam._learning_rate import scale_by_learning_rate as scale_by_learning_rate
from jadam._masks import as_mask as as_mask
from jadam._masks import ndim_at_least as ndim_at_least
from jadam._schedule_free import ScheduleFree as ScheduleFree
from jadam._transformation import GradientTransformation as GradientTransformation
from jadam._weight_decay import DecayScale as DecayScale
from jadam._weight_decay import add_decayed_weights as add_decayed_weights
from jadam._weight_decay import decay_after_step as decay_after_step
from jadam._weight_decay import optional_decay as optional_decay
