"""jadam: optimizers for JAX that never lose an update silently, with Adam at their heart."""

__version__ = "0.2.0"

# Optimizers: a chain that is ready to use
from jadam._optimizers.sgd import sgd as sgd
from jadam._optimizers.rmsprop import rmsprop as rmsprop
from jadam._optimizers.adagrad import adagrad as adagrad
from jadam._optimizers.adadelta import adadelta as adadelta
from jadam._optimizers.adam import adam as adam
from jadam._optimizers.adam import adamw as adamw
from jadam._optimizers.adamax import adamax as adamax
from jadam._optimizers.amsgrad import amsgrad as amsgrad
from jadam._optimizers.nadam import nadam as nadam
from jadam._optimizers.nadamw import nadamw as nadamw
from jadam._optimizers.radam import radam as radam
from jadam._optimizers.adabound import adabound as adabound
from jadam._optimizers.adabelief import adabelief as adabelief
from jadam._optimizers.yogi import yogi as yogi
from jadam._optimizers.adan import adan as adan
from jadam._optimizers.adopt import adopt as adopt
from jadam._optimizers.ademamix import ademamix as ademamix
from jadam._optimizers.adam_atan2 import adam_atan2 as adam_atan2
from jadam._optimizers.laprop import laprop as laprop
from jadam._optimizers.mars import mars_adamw as mars_adamw
from jadam._optimizers.stable_adamw import stable_adamw as stable_adamw
from jadam._optimizers.lion import lion as lion
from jadam._optimizers.lamb import lamb as lamb
from jadam._optimizers.adafactor import adafactor as adafactor
from jadam._optimizers.big_vision_adafactor import big_vision_adafactor as big_vision_adafactor
from jadam._optimizers.adam_mini import adam_mini as adam_mini
from jadam._optimizers.schedule_free_adamw import schedule_free_adamw as schedule_free_adamw
from jadam._optimizers.prodigy import prodigy as prodigy
from jadam._optimizers.muon import muon as muon
from jadam._optimizers.normuon import normuon as normuon
from jadam._optimizers.soap import soap as soap

# Blocks: what a chain is made of
from jadam._clipping import adaptive_grad_clip as adaptive_grad_clip
from jadam._clipping import clip as clip
from jadam._clipping import clip_by_block_rms as clip_by_block_rms
from jadam._clipping import clip_by_global_norm as clip_by_global_norm
from jadam._adaptive_clipping import zclip as zclip
from jadam._adaptive_clipping import percentile_clip as percentile_clip
from jadam._norm import global_norm as global_norm
from jadam._groups import set_to_zero as set_to_zero
from jadam._learning_rate import scale as scale
from jadam._learning_rate import scale_by_learning_rate as scale_by_learning_rate
from jadam._learning_rate import scale_by_schedule as scale_by_schedule
from jadam._learning_rate import hold_first as hold_first
from jadam._reduce_on_plateau import reduce_on_plateau as reduce_on_plateau
from jadam._weight_decay import add_decayed_weights as add_decayed_weights
from jadam._weight_decay import decay_after_step as decay_after_step
from jadam._multipliers import scale_by_path as scale_by_path
from jadam._update_ratio import floor_update_ratio as floor_update_ratio
from jadam._projections import keep_params_nonnegative as keep_params_nonnegative
from jadam._projections import keep_params_in_l2_ball as keep_params_in_l2_ball
from jadam._projections import keep_params_in_simplex as keep_params_in_simplex
from jadam._projections import project_params as project_params
from jadam._qk_clip import qk_clip as qk_clip
from jadam._chain import identity as identity
from jadam._optimizers.sgd import trace as trace
from jadam._ema import ema as ema
from jadam._optimizers.rmsprop import scale_by_rms as scale_by_rms
from jadam._optimizers.adagrad import scale_by_rss as scale_by_rss
from jadam._optimizers.adadelta import scale_by_adadelta as scale_by_adadelta
from jadam._optimizers.adam import scale_by_adam as scale_by_adam
from jadam._optimizers.adamax import scale_by_adamax as scale_by_adamax
from jadam._optimizers.amsgrad import scale_by_amsgrad as scale_by_amsgrad
from jadam._optimizers.nadam import scale_by_nadam as scale_by_nadam
from jadam._optimizers.nadamw import scale_by_nadamw as scale_by_nadamw
from jadam._optimizers.radam import scale_by_radam as scale_by_radam
from jadam._optimizers.adabound import scale_by_adabound as scale_by_adabound
from jadam._optimizers.adabelief import scale_by_belief as scale_by_belief
from jadam._optimizers.yogi import scale_by_yogi as scale_by_yogi
from jadam._optimizers.adan import scale_by_adan as scale_by_adan
from jadam._optimizers.adopt import scale_by_adopt as scale_by_adopt
from jadam._optimizers.ademamix import scale_by_ademamix as scale_by_ademamix
from jadam._optimizers.adam_atan2 import scale_by_adam_atan2 as scale_by_adam_atan2
from jadam._optimizers.laprop import scale_by_laprop as scale_by_laprop
from jadam._optimizers.mars import scale_by_mars as scale_by_mars
from jadam._optimizers.stable_adamw import scale_by_stable_adamw as scale_by_stable_adamw
from jadam._optimizers.lion import scale_by_lion as scale_by_lion
from jadam._optimizers.lamb import scale_by_trust_ratio as scale_by_trust_ratio
from jadam._optimizers.adafactor import scale_by_adafactor as scale_by_adafactor
from jadam._optimizers.big_vision_adafactor import scale_by_factored_rms as scale_by_factored_rms
from jadam._optimizers.adam_mini import scale_by_adam_mini as scale_by_adam_mini
from jadam._optimizers.prodigy import scale_by_prodigy as scale_by_prodigy
from jadam._optimizers.muon import scale_by_muon as scale_by_muon
from jadam._optimizers.normuon import scale_by_normuon as scale_by_normuon
from jadam._optimizers.soap import scale_by_soap as scale_by_soap

# Combinators: which rules, in which order, on which parameters, stored how
from jadam._chain import chain as chain
from jadam._groups import masked as masked
from jadam._groups import partition as partition
from jadam._groups import freeze as freeze
from jadam._masks import match as match
from jadam._masks import ndim_at_least as ndim_at_least
from jadam._matrices import axes as axes
from jadam._precision import with_precision as with_precision
from jadam._wrappers.accumulate import accumulate as accumulate
from jadam._wrappers.multi_steps import MultiSteps as MultiSteps
from jadam._wrappers.loss_scale import loss_scale as loss_scale
from jadam._wrappers.average import average as average
from jadam._wrappers.lookahead import lookahead as lookahead
from jadam._wrappers.sam import sam as sam
from jadam._wrappers.lazy import lazy as lazy
from jadam._wrappers.guard import guard as guard
from jadam._wrappers.monitor import monitor as monitor
from jadam._hyperball import hyperball as hyperball
from jadam._cautious import cautious as cautious
from jadam._weight_decay import cautious_weight_decay as cautious_weight_decay
from jadam._schedule_free import schedule_free as schedule_free

# Steps and states
from jadam._transformation import GradientTransformation as GradientTransformation
from jadam._transformation import GradientTransformationExtraArgs as GradientTransformationExtraArgs
from jadam._apply_updates import apply_updates as apply_updates
from jadam._rows import Rows as Rows
from jadam._rows import unique_rows as unique_rows
from jadam._averages import incremental_update as incremental_update
from jadam._averages import periodic_update as periodic_update
from jadam._averages import bias_correction as bias_correction
from jadam._averages import safe_increment as safe_increment
from jadam._averages import safe_int32_increment as safe_int32_increment
from jadam._state import OptState as OptState
from jadam._hyperparams import hyperparams as hyperparams
from jadam._schedule_free import schedule_free_params as schedule_free_params
from jadam._wrappers.average import averaged_params as averaged_params
from jadam._wrappers.accumulate import has_updated as has_updated
from jadam._wrappers.accumulate import flush as flush
from jadam._wrappers.loss_scale import current_loss_scale as current_loss_scale
from jadam._wrappers.guard import has_diverged as has_diverged
from jadam._metrics import metrics as metrics
from jadam._describe import describe as describe
from jadam._precision import check_precision as check_precision
from jadam._engine.lost import PrecisionWarning as PrecisionWarning
from jadam._sharding import state_shardings as state_shardings
from jadam._checkpoint.flat import to_dict as to_dict
from jadam._checkpoint.flat import from_dict as from_dict
from jadam._checkpoint.migrate import migrate as migrate
from jadam._checkpoint.report import Migration as Migration
from jadam._checkpoint.torch import from_torch as from_torch
from jadam._checkpoint.torch import to_torch as to_torch

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

# Types for annotations
from jadam._types import Params as Params
from jadam._types import Updates as Updates
from jadam._types import ScalarOrSchedule as ScalarOrSchedule
from jadam._types import MaskOrFn as MaskOrFn
from jadam._types import TransformInitFn as TransformInitFn
from jadam._types import TransformUpdateFn as TransformUpdateFn
from jadam._types import TransformUpdateExtraArgsFn as TransformUpdateExtraArgsFn
from jadam._types import EmptyState as EmptyState
from jadam._types import MaskedNode as MaskedNode

# For an algorithm or a wrapper of your own
from jadam._rule import Rule as Rule
from jadam._after_step import AfterStep as AfterStep
from jadam._hyper import Hyper as Hyper
from jadam._hyper import NonNegative as NonNegative
from jadam._hyper import Positive as Positive
from jadam._hyper import Decay as Decay
from jadam._rule import Context as Context
from jadam._rule import zeros as zeros
from jadam._chain import block as block
from jadam._wrapper import Wrapper as Wrapper
from jadam._wrapper import Inside as Inside
from jadam._chain import wrap as wrap

# For every other name of optax's, an error that says what to write
from jadam._elsewhere import __getattr__  # noqa: F401

# What `help` lists and `import *` imports: the names above, each of which stands in this file once.
__all__ = [name for name in vars() if not name.startswith("_")]  # pyright: ignore[reportUnsupportedDunderAll]
