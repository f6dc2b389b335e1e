"""What checks the exercises, in rooms by notebook; a checker's name begins with the notebook's number."""

from .base import *  # noqa: F403
from .evidence import *  # noqa: F403
from .faces import *  # noqa: F403
from .methods import *  # noqa: F403
from .scaling import *  # noqa: F403
