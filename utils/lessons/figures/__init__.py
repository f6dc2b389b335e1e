"""Every figure of the course: matplotlib only.

Each function takes arrays (NumPy or torch) and returns a `Figure` that pyplot does not know about: end a notebook cell
with the call and the picture appears once; nothing has to be shown or closed.
"""

from .audits import *  # noqa: F403
from .base import *  # noqa: F403
from .fronts import *  # noqa: F403
from .outcomes import *  # noqa: F403
from .palette import *  # noqa: F403
from .photos import *  # noqa: F403
from .points import *  # noqa: F403
from .ranking import *  # noqa: F403
from .scaling import *  # noqa: F403
