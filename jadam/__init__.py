"""jadam: optimizers for JAX that lose nothing without a word, with Adam at their heart."""

# Optimizers: a chain that is ready to use
from jadam._optimizers.adam import adam as adam
from jadam._optimizers.adam import adamw as adamw
from jadam._optimizers.sgd import sgd as sgd

# Blocks: what a chain is made of
from jadam._clipping import adaptive_grad_clip as adaptive_grad_clip
from jadam._clipping import clip as clip
from jadam._clipping import clip_by_block_rms as clip_by_block_rms
from jadam._clipping import clip_by_global_norm as clip_by_global_norm
from jadam._norm import global_norm as global_norm
from jadam._groups import set_to_zero as set_to_zero
from jadam._learning_rate import scale as scale
from jadam._learning_rate import scale_by_learning_rate as scale_by_learning_rate
from jadam._learning_rate import scale_by_schedule as scale_by_schedule
from jadam._optimizers.adam import scale_by_adam as scale_by_adam
from jadam._optimizers.sgd import trace as trace
from jadam._transformation import identity as identity
from jadam._weight_decay import add_decayed_weights as add_decayed_weights

# Combinators: which rules, in which order, on which parameters, stored how
from jadam._transformation import chain as chain
from jadam._groups import masked as masked
from jadam._groups import partition as partition
from jadam._groups import freeze as freeze
from jadam._masks import match as match
from jadam._masks import ndim_at_least as ndim_at_least
from jadam._precision import with_precision as with_precision

# Steps and states
from jadam._transformation import GradientTransformation as GradientTransformation
from jadam._transformation import apply_updates as apply_updates
from jadam._state import OptState as OptState
from jadam._state import hyperparams as hyperparams
from jadam._describe import describe as describe
from jadam._sharding import state_shardings as state_shardings

# Schedules
from jadam._schedules.schedule import Schedule as Schedule
from jadam._schedules.schedule import constant_schedule as constant_schedule
from jadam._schedules.schedule import join_schedules as join_schedules
from jadam._schedules.decays import linear_schedule as linear_schedule
from jadam._schedules.decays import polynomial_schedule as polynomial_schedule
from jadam._schedules.decays import cosine_decay_schedule as cosine_decay_schedule
from jadam._schedules.decays import exponential_decay as exponential_decay
from jadam._schedules.decays import piecewise_constant_schedule as piecewise_constant_schedule
from jadam._schedules.warmups import warmup_constant_schedule as warmup_constant_schedule
from jadam._schedules.warmups import warmup_linear_decay_schedule as warmup_linear_decay_schedule
from jadam._schedules.warmups import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from jadam._schedules.warmups import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule
from jadam._schedules.warmups import warmup_stable_decay_schedule as warmup_stable_decay_schedule
from jadam._schedules.warmups import inverse_sqrt_schedule as inverse_sqrt_schedule
from jadam._schedules.cycles import sgdr_schedule as sgdr_schedule
from jadam._schedules.cycles import linear_onecycle_schedule as linear_onecycle_schedule
from jadam._schedules.cycles import cosine_onecycle_schedule as cosine_onecycle_schedule

# For an algorithm of your own
from jadam._rule import Rule as Rule
from jadam._rule import Hyper as Hyper
from jadam._rule import NonNegative as NonNegative
from jadam._rule import Positive as Positive
from jadam._rule import Decay as Decay
from jadam._rule import Context as Context
from jadam._rule import ema as ema
from jadam._rule import debias as debias
from jadam._rule import zeros as zeros
from jadam._transformation import block as block
