"""A running sweep as others see it: Ray's dashboard (jobs, tasks, logs), Prometheus and Grafana.

The only door to `ray.util.metrics`, to the job's page and to the session's log folder. All of it is told by one process
that lives as long as the sweep, the driver, from the dispatcher's snapshots and the trials' results: a gauge vanishes
with the process that set it.

metrics: the table of metrics; readings: their values now; gauges: hands them to Ray
board: the Grafana board of these metrics; reference: the table for the documentation
labels: what a trial is called; session_logs, trial_log: text files on the dashboard's Logs page
job_page, summary: the Jobs page
observer: all of these, once every few seconds
"""

from raycodellm.observability.board import board
from raycodellm.observability.labels import TrialLabels, trial_labels
from raycodellm.observability.observer import Observed, Observer

__all__ = ["Observed", "Observer", "TrialLabels", "board", "trial_labels"]
