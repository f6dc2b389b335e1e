"""What checks the exercises."""

from .base import *  # noqa: F403
from .evidence import *  # noqa: F403
from .faces import *  # noqa: F403
from .methods import *  # noqa: F403
