"""Every figure of the course."""

from .audits import *  # noqa: F403
from .base import *  # noqa: F403
from .outcomes import *  # noqa: F403
from .photos import *  # noqa: F403
from .points import *  # noqa: F403
from .ranking import *  # noqa: F403
