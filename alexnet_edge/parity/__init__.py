"""Does the engine still answer as the FP32 model did?

Both see the same images through the same preprocessing.

    results.py      what a comparison gives, as in its JSON
    compare.py      engines and reference over the images, and the verdict
    statistics.py   interval, tests, how many images it takes
    tally.py        a row of numbers for every image
    summary.py      rows into figures
    common.py       what the networks must share
    state.py        going on after an interruption
    trace.py        where answers part ways, stage by stage
    stages.py       the stages and their tolerances
    probes.py  layers.py  qdq.py     layers of graphs and engines; the Q/DQ graph made again
"""

from alexnet_edge.parity.compare import compare_answers, compare_engines
from alexnet_edge.parity.layers import LayerSqnr
from alexnet_edge.parity.results import (
    Accuracy,
    ClassParity,
    FlippedImage,
    ParityResult,
    WorstImage,
)
from alexnet_edge.parity.settings import ParityProgress, ParitySettings
from alexnet_edge.parity.stages import Divergence, Stage
from alexnet_edge.parity.statistics import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    Flips,
    bootstrap_interval,
    drop_interval,
    images_needed,
    judge,
    mcnemar_exact,
    minimum_detectable_drop_pp,
    noninferiority_p,
)
from alexnet_edge.parity.trace import Trace, TraceSettings, trace_stages

__all__ = [
    "FAIL",
    "INCONCLUSIVE",
    "PASS",
    "Accuracy",
    "ClassParity",
    "Divergence",
    "FlippedImage",
    "Flips",
    "LayerSqnr",
    "ParityProgress",
    "ParityResult",
    "ParitySettings",
    "Stage",
    "Trace",
    "TraceSettings",
    "WorstImage",
    "bootstrap_interval",
    "compare_answers",
    "compare_engines",
    "drop_interval",
    "images_needed",
    "judge",
    "mcnemar_exact",
    "minimum_detectable_drop_pp",
    "noninferiority_p",
    "trace_stages",
]
