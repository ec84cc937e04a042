from raycodellm.commands.run import RunFailed as RunFailed
from raycodellm.config import UserError as UserError
from raycodellm.ladder import OpenedLadder as OpenedLadder
from raycodellm.notebook import check_sweep as check_sweep
from raycodellm.notebook import run as run
from raycodellm.runs import OpenedRun as OpenedRun
from raycodellm.runs import open_run as open_run
from raycodellm.version import __version__ as __version__
