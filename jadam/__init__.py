"""jadam: optimizers for JAX that lose nothing without a word."""

from jadam._clipping import adaptive_grad_clip as adaptive_grad_clip
from jadam._clipping import clip as clip
from jadam._clipping import clip_by_block_rms as clip_by_block_rms
from jadam._clipping import clip_by_global_norm as clip_by_global_norm
from jadam._clipping import global_norm as global_norm
from jadam._groups import freeze as freeze
from jadam._groups import masked as masked
from jadam._groups import partition as partition
from jadam._groups import set_to_zero as set_to_zero
from jadam._learning_rate import scale as scale
from jadam._learning_rate import scale_by_learning_rate as scale_by_learning_rate
from jadam._learning_rate import scale_by_schedule as scale_by_schedule
from jadam._masks import match as match
from jadam._masks import ndim_at_least as ndim_at_least
from jadam._optimizers.adam import adam as adam
from jadam._optimizers.adam import adamw as adamw
from jadam._optimizers.adam import scale_by_adam as scale_by_adam
from jadam._optimizers.sgd import sgd as sgd
from jadam._optimizers.sgd import trace as trace
from jadam._precision import with_precision as with_precision
from jadam._schedules import cosine_decay_schedule as cosine_decay_schedule, warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from jadam._state import hyperparams as hyperparams
from jadam._transformation import apply_updates as apply_updates
from jadam._transformation import chain as chain
from jadam._transformation import identity as identity
from jadam._weight_decay import add_decayed_weights as add_decayed_weights
