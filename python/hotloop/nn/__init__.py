"""Layers, networks and losses, with PyTorch's names, defaults and initial values."""

from . import functional as functional
from . import init as init
from . import utils as utils
from .activation import *
from .container import *
from .convolution import *
from .dropout import *
from .embedding import *
from .flatten import *
from .linear import *
from .loss import *
from .module import *
from .norm import *
from .parameter import *
from .pooling import *
