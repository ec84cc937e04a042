"""A sweep from its first command to its last. The only door to `ray.tune`.

The state of a sweep is the content of its storage: the stage store, the trials' folders and the study's journal. A
second run of the same command reads them and continues: finished trials stay, interrupted ones continue under their
numbers, and their stages continue from their newest checkpoints.
"""

from raycodellm.sweep import background_imports
from raycodellm.sweep.confirmation import Confirmation, Standing
from raycodellm.sweep.driver import Driver, Sighting, driver_of, running_driver, sighting
from raycodellm.sweep.early_stopping import earlier_comparisons
from raycodellm.sweep.folder import Run, clear_scratch
from raycodellm.sweep.halting import Halted, why_halted
from raycodellm.sweep.judged import judged, stays_judged
from raycodellm.sweep.opening import open_run
from raycodellm.sweep.ownership import lock
from raycodellm.sweep.provenance import fix_contents, require_same_recipe
from raycodellm.sweep.results import EndedTrials, Results, read_results, write_table
from raycodellm.sweep.run import Monitor, run_sweep
from raycodellm.sweep.spending import Account
from raycodellm.sweep.stopper import Stopper
from raycodellm.sweep.timing import Timing
from raycodellm.sweep.told_results import tell_written_results
from raycodellm.sweep.tracking import require_packages
from raycodellm.sweep.trial import TrialContext
from raycodellm.sweep.warm_start import read_prior
from raycodellm.sweep.watchdog import SweepLost, Watchdog

__all__ = [
    "Account",
    "Confirmation",
    "Driver",
    "EndedTrials",
    "Halted",
    "Monitor",
    "Results",
    "Run",
    "Sighting",
    "Standing",
    "Stopper",
    "SweepLost",
    "Timing",
    "TrialContext",
    "Watchdog",
    "background_imports",
    "clear_scratch",
    "driver_of",
    "earlier_comparisons",
    "fix_contents",
    "judged",
    "lock",
    "open_run",
    "read_prior",
    "read_results",
    "require_packages",
    "require_same_recipe",
    "run_sweep",
    "running_driver",
    "sighting",
    "stays_judged",
    "tell_written_results",
    "why_halted",
    "write_table",
]
