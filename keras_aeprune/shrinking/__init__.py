"""Cut out: a smaller model, plan first, then apply; units, layers and activations.

- `plan`             which units go, by criterion, fraction or budget; `.apply(model)`, `.masked(model)`
- `shrink_until`     cut, compensate and train in rounds, until a budget is met or the error grows too much
- `without_dead`     cut what nothing takes up or what is constant, exactly
- `compensate`       closed-form weights after a cut; `reestimate_normalization`; `fine_tune` with rollback
- `merge`            neighbouring linear layers made one, exactly; `without`, `rank_layers`: whole layers out
- `simplify`         simpler activations by rule or by name; `replaced`; `prepare`, `fold`: learned ones
- `register`         how units pass through an own kind of layer
"""

from keras_aeprune.shrinking.activation_plan import ActivationPlan
from keras_aeprune.shrinking.compensation import Compensation, compensate
from keras_aeprune.shrinking.dead import Dead, find_dead, without_dead
from keras_aeprune.shrinking.depth import LayerCut, mirrored, paired, removable, without
from keras_aeprune.shrinking.depth_ranking import LayerRank, rank_layers
from keras_aeprune.shrinking.folding import FoldableActivation, alphas, fold, prepare
from keras_aeprune.shrinking.iteration import Shrunk, shrink_until
from keras_aeprune.shrinking.merging import merge, mergeable
from keras_aeprune.shrinking.planning import plan
from keras_aeprune.shrinking.rounds import Round
from keras_aeprune.shrinking.shrink_plan import GroupCut, ShrinkPlan
from keras_aeprune.shrinking.simplifying import activations, relu_states, replaced, simplify
from keras_aeprune.shrinking.tracing import Group, register, trace
from keras_aeprune.shrinking.tuning import Tuned, fine_tune
from keras_aeprune.shrinking.walking import reestimate_normalization

__all__ = [
    "ActivationPlan",
    "Compensation",
    "Dead",
    "FoldableActivation",
    "Group",
    "GroupCut",
    "LayerCut",
    "LayerRank",
    "Round",
    "ShrinkPlan",
    "Shrunk",
    "Tuned",
    "activations",
    "alphas",
    "compensate",
    "find_dead",
    "fine_tune",
    "fold",
    "merge",
    "mergeable",
    "mirrored",
    "paired",
    "plan",
    "prepare",
    "rank_layers",
    "reestimate_normalization",
    "register",
    "relu_states",
    "removable",
    "replaced",
    "shrink_until",
    "simplify",
    "trace",
    "without",
    "without_dead",
]
